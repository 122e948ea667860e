"""OLTR, classifier-balancing and Balanced Meta-Softmax (family C): a backbone and a classifier in one nested dict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from sharpness.checkpoints.families.datasets import setups, with_notes
from sharpness.checkpoints.families.family import Family
from sharpness.checkpoints.families.reading import Code, Options, Reading, assemble, is_state, number_of, recorded
from sharpness.checkpoints.heads import ROWS, Head, HeadHabits, HeadReading, read_head
from sharpness.checkpoints.networks import State, filled, some
from sharpness.checkpoints.prefixes import strip_prefixes
from sharpness.errors import UserError
from sharpness.models import MetaEmbeddingHead, ModulatedAttention, OltrFeatures, ResNet
from sharpness.models.oltr import SCALE

SETUPS = with_notes(
    setups(subset=None), "the images of CIFAR's long tail depend on NumPy's global seed, which is not recorded"
)
ATTENTION, LAYER = "modulatedatt.", "fc_add."
META_EMBEDDING = ("fc_hallucinator.", "fc_selector.", "cosnorm_classifier.")


def matches(content: Any) -> bool:
    """True of parts, such as ``feat_model``, under ``state_dict_best`` or ``state_dict``."""
    return isinstance(content, Mapping) and _nested(content) is not None


def read(content: Any, path: str, options: Options) -> Reading:
    """Read a model from one file, or from two: parts of the second, usually a classifier, replace those of the first.

    OLTR's own second stage saves a meta-embedding classifier, and beside the networks the centroids of its memory.
    """
    parts = dict(_nested(content) or {})
    second: Mapping[str, Any] = {}
    if options.stage2 is not None:
        second = _nested(options.stage2) or {}
        if not second:
            raise UserError(f"{options.stage2_path} holds no classifier under 'state_dict_best' or 'state_dict'")
        parts |= second
    for part in ("feat_model", "classifier"):
        if not is_state(parts.get(part)):
            raise UserError(f"{path} has no {part!r}: give the other file of this model as stage2= (--stage2)")
    state, prefix = strip_prefixes(parts["feat_model"])
    head = strip_prefixes(parts["classifier"])[0]
    # The meta-embedding's logits depend on the memory of centroids, which belongs to the classifier's stage.
    embedded = any(name.startswith(META_EMBEDDING) for name in head)
    # The memory belongs to the classifier, and comes from the same file.
    if embedded and options.model is None:
        latest = options.stage2 if isinstance(options.stage2, Mapping) and "classifier" in second else content
        if not isinstance(latest.get("centroids"), Tensor):
            raise UserError(
                f"{path} has OLTR's meta-embedding classifier and no 'centroids', the memory that its logits depend "
                "on: give the final_model_checkpoint.pth, which has them"
            )
        head["centroids"] = latest["centroids"]
    scaled = any(name.split(".")[-1] == "scales" for name in head)
    known: dict[str, Any] = {"best_epoch": number_of(content.get("best_epoch"))}
    if options.stage2_path:
        known["stage2"] = options.stage2_path
    classifier = _meta_embedding if embedded else read_head
    code = Code("OLTR, classifier-balancing or Balanced Meta-Softmax", SETUPS, refine=_refined, classifier=classifier)
    return assemble(
        code, state, path, options, head, prefix, **recorded(content, "best_acc", percent=False),
        stage=2 if scaled or embedded or options.stage2 is not None else None, **known,
    )  # fmt: skip


def _refined(backbone: nn.Module, rest: State, path: str) -> tuple[nn.Module, State]:
    """Add OLTR's attention and its layer behind the pooling to a backbone, where the file has them."""
    parts = (ATTENTION, LAYER)
    attention, fc = ({n.removeprefix(p): t for n, t in rest.items() if n.startswith(p)} for p in parts)
    if not (attention or fc) or not isinstance(backbone, ResNet):
        return backbone, rest
    built: dict[str, Any] = {"modulatedatt": None, "fc_add": None}
    if attention:
        inner, positions = (_outputs(attention, f"{name}.weight", path) for name in ("g", "fc_spatial"))
        make: Callable[[], nn.Module] = partial(ModulatedAttention, backbone.num_features, inner, positions)
        built["modulatedatt"] = filled(make, attention, path)
    if fc:
        built["fc_add"] = filled(partial(nn.Linear, backbone.num_features, _outputs(fc, "weight", path)), fc, path)
    return OltrFeatures(backbone, **built), {n: t for n, t in rest.items() if not n.startswith(parts)}


def _meta_embedding(
    state: Mapping[str, Tensor], num_features: int, path: str, asked: str | None, scale: float | None, _: HeadHabits
) -> Head:
    """OLTR's classifier of the second stage, whose scale is in its code."""
    if asked is not None:
        raise UserError(f"head={asked!r} was given, and {path} has OLTR's meta-embedding classifier: leave head out")
    own = {n.replace("cosnorm_classifier.", ""): t for n, t in state.items()}
    used = SCALE if scale is None else scale
    notes = () if scale is not None else (f"the logit scale is not in the file: {SCALE:g} is the usual one",)
    made = filled(partial(MetaEmbeddingHead, num_features, _outputs(own, "weight", path), used), own, path)
    return Head(made, HeadReading("meta-embedding", ROWS, used), (), "", notes, {})


def _outputs(state: Mapping[str, Tensor], name: str, path: str) -> int:
    if name not in state or not state[name].ndim:
        raise UserError(f"{path} lacks the {name} of a part of OLTR's network (it has {some(state)})")
    return len(state[name])


def _nested(content: Any) -> Mapping[str, Any] | None:
    """The mapping of parts, of the best or of the latest model."""
    if not isinstance(content, Mapping):
        return None
    for key in ("state_dict_best", "state_dict"):
        parts = content.get(key)
        if isinstance(parts, Mapping) and {"feat_model", "classifier"} & set(parts) and not is_state(parts):
            return parts
    return None


USUAL = ("final_model_checkpoint.pth", "latest_model_checkpoint.pth")
FAMILY = Family("oltr", matches, read, usual_files=USUAL, two_files=True)
