"""OLTR, classifier-balancing and Balanced Meta-Softmax (family C): a backbone and a classifier in one nested dict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sharpness.checkpoints.families.datasets import recipes, with_notes
from sharpness.checkpoints.families.reading import Options, Reading, accuracy, assemble, epoch_of, is_state, number_of
from sharpness.checkpoints.prefixes import strip_prefixes
from sharpness.errors import UserError

FAMILY = "OLTR, classifier-balancing or Balanced Meta-Softmax"
RECIPES = with_notes(
    recipes(subset=None), "the images of CIFAR's long tail depend on NumPy's global seed, which is not recorded"
)
META_EMBEDDING = ("fc_hallucinator.", "fc_selector.", "cosnorm_classifier.")


def matches(content: Any) -> bool:
    return isinstance(content, Mapping) and _nested(content) is not None


def read(content: Any, path: str, options: Options) -> Reading:
    """What a second file holds, usually the classifier of a second stage, replaces what the first one holds."""
    parts = dict(_nested(content) or {})
    if options.stage2 is not None:
        second = _nested(options.stage2)
        if second is None:
            raise UserError(f"{options.stage2_path} holds no classifier under 'state_dict_best' or 'state_dict'")
        parts |= second
    for part in ("feat_model", "classifier"):
        if not is_state(parts.get(part)):
            raise UserError(f"{path} has no {part!r}: give the other file of this model as stage2= (--stage2)")
    state, prefix = strip_prefixes(parts["feat_model"])
    head = strip_prefixes(parts["classifier"])[0]
    if any(name.startswith(META_EMBEDDING) for name in head):
        raise UserError(
            f"{path} has OLTR's meta-embedding classifier, whose logits depend on the centroids of its memory: "
            "give the checkpoint of stage 1, or build the model in Python"
        )
    scaled = any(name.split(".")[-1] == "scales" for name in head)
    known: dict[str, Any] = {"best_epoch": number_of(content.get("best_epoch"))}
    if options.stage2_path:
        known["stage2"] = options.stage2_path
    return assemble(
        FAMILY, state, path, options, head=head, prefix=prefix, recipes=RECIPES, epoch=epoch_of(content),
        accuracy=accuracy(content.get("best_acc"), percent=False),
        stage=2 if scaled or options.stage2 is not None else None, **known,
    )  # fmt: skip


def _nested(content: Any) -> Mapping[str, Any] | None:
    """The mapping of parts, of the best or of the latest model."""
    if not isinstance(content, Mapping):
        return None
    for key in ("state_dict_best", "state_dict"):
        parts = content.get(key)
        if isinstance(parts, Mapping) and {"feat_model", "classifier"} & set(parts) and not is_state(parts):
            return parts
    return None
