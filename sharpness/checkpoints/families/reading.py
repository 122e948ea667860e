"""Shared parts of the families' readers: options in, a model and its manifest out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeGuard

import numpy as np
from torch import Tensor, nn

from sharpness.checkpoints.families.datasets import Setup
from sharpness.checkpoints.heads import UNKNOWN, Head, HeadHabits, read_head
from sharpness.checkpoints.manifest import Manifest, Network
from sharpness.checkpoints.networks import State, read_backbone, require_nothing_left, some
from sharpness.checkpoints.prefixes import covering_prefixes, strip_prefixes, unwrapped
from sharpness.errors import UserError, shown
from sharpness.models import Classifier, CosineHead, LearnableWeightScaling, ModelSpec
from sharpness.models.factory import load_weights

WEIGHTS = ("model", "ema", "swa")
logger = logging.getLogger("sharpness")


@dataclass(frozen=True)
class Options:
    """The options of the caller.

    Attributes:
        scale: s of a normalised head, which repositories keep in the loss and not in the file.
        head: ``"linear"``, ``"cosine"``, ... where the file leaves it open, see :mod:`~sharpness.checkpoints.heads`.
        stage2: content of the second file, where a method has two.
        stage2_path: its path.
        num_classes: C, to be checked against the file.
        weights: ``"model"``, ``"ema"`` or ``"swa"``, where the file holds several.
        model: a network to take the weights, for architectures that are not known here.
        named: whether the caller named the family, rather than the content.
    """

    scale: float | None = None
    stage2: Any = None
    stage2_path: str | None = None
    num_classes: int | None = None
    weights: str = "model"
    model: nn.Module | None = None
    named: bool = False
    head: str | None = None


@dataclass(frozen=True)
class Reading:
    """A model in eval mode that returns calibrated logits (n, C), and its manifest."""

    model: nn.Module
    manifest: Manifest


def is_state(content: object) -> TypeGuard[Mapping[str, Tensor]]:
    """True for a state dict: names to tensors, and not empty."""
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())
    )


@dataclass(frozen=True)
class Code:
    """Properties of a code base that its checkpoints do not record.

    Attributes:
        title: of the family, for manifests.
        setups: of the data, by number of classes.
        heads: what it does with heads that may be linear or normalised.
        shortcut: of a CIFAR ResNet, see :class:`~sharpness.models.BasicBlock`.
        ignored: parts of names that it leaves behind beside the network.
        unused: parts of names of parameters that its forward pass never uses; they are left out and listed.
        refine: makes its feature extractor of the usual one, the entries beside it, and the path.
        classifier: reads the head in the place of :func:`~sharpness.checkpoints.heads.read_head`.
    """

    title: str
    setups: Mapping[int, Setup]
    heads: HeadHabits = UNKNOWN
    shortcut: str = "both"
    ignored: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    refine: Callable[[nn.Module, State, str], tuple[nn.Module, State]] | None = None
    classifier: Callable[..., Head] = read_head


def assemble(
    code: Code,
    state: Mapping[str, Tensor],
    path: str,
    options: Options,
    head: Mapping[str, Tensor] | None = None,
    prefix: str | None = None,
    **known: Any,
) -> Reading:
    """Backbone and head from state dicts, and the manifest.

    Args:
        code: that wrote the file.
        state: of the backbone, and of the head if ``head`` is None.
        head: state of the head, from elsewhere.
        prefix: that was stripped before; otherwise it is stripped here.
        known: further entries of the manifest.

    Raises:
        UserError: the entries do not make a network known here.
    """
    if prefix is None:
        state, prefix = strip_prefixes(state)
    if options.model is None or unwrapped(options.model.state_dict()).keys() == options.model.state_dict().keys():
        state = unwrapped(state)
    # Before anything is recognised: entries that are left over make the network an unknown one.
    dead = [n for n in state if any(part in n for part in code.unused)]
    counters = [n for n in state if _is_counter(n, state[n])] if _counts(options.model) == 0 else []
    state = {n: t for n, t in state.items() if n not in dead and n not in counters}
    if counters:
        remark = f"{len(counters)} counters that thop.profile left (total_ops, total_params) are left out"
        known["notes"] = [*known.get("notes", ()), remark]
    if options.model is not None:
        whole = {n: t for n, t in {**state, **(head or {})}.items() if not any(part in n for part in code.ignored)}
        return _into(options.model, code.title, whole, path, prefix, options, known)
    architecture, backbone, rest = read_backbone(state, path, code.shortcut)
    channels = int(backbone.get_parameter("conv1.weight").shape[1])
    if code.refine is not None:
        backbone, rest = code.refine(backbone, rest, path)
    features = int(backbone.num_features)  # type: ignore[arg-type]
    entries, beside = (rest, {}) if head is None else (dict(head), rest)
    found = code.classifier(entries, features, path, options.head, options.scale, code.heads)
    require_nothing_left([*found.rest, *beside], path, code.ignored)
    scaled = isinstance(found.module, LearnableWeightScaling)
    inner = found.module.head if isinstance(found.module, LearnableWeightScaling) else found.module
    classes = int(inner.get_parameter("weight").shape[1 if isinstance(inner, CosineHead) else 0])
    if options.num_classes not in (None, classes):
        raise UserError(f"num_classes={options.num_classes} was given, but the classifier in {path} has {classes}")
    kind, scale = found.reading.kind, found.reading.scale
    spec = ModelSpec(
        architecture, classes, channels, kind + "+lws" * scaled, None if (kind, scale) == ("linear", 1) else scale
    )
    if found.doubt:
        logger.warning("%s: %s", path, found.doubt)
    notes = [*known.pop("notes", ()), *filter(None, [found.doubt]), *found.notes]
    known |= {"head_layout": found.reading.layout, "head_readings": found.open, "unused_parameters": dead}
    known |= {"prefix": prefix, "notes": notes}
    manifest = _manifest(code.title, Network.of(spec), code.setups.get(classes, Setup()), known)
    return Reading(Classifier(backbone, found.module, spec).eval(), manifest)


def _is_counter(name: str, value: Tensor) -> bool:
    """True for a count of operations or parameters, which ``thop.profile`` keeps as a buffer of every module."""
    return name.rpartition(".")[2] in ("total_ops", "total_params") and value.numel() == 1


def _counts(model: nn.Module | None) -> int:
    """The number of such buffers in a given network."""
    return 0 if model is None else sum(_is_counter(n, t) for n, t in model.state_dict().items())


def trained_names(model: nn.Module) -> list[str]:
    """Entries of a network that a file must bring: not frozen parameters, nor buffers beside none that are trained."""
    names = []
    for prefix, module in model.named_modules():
        own = {f"{prefix}.{n}".lstrip("."): p for n, p in module.named_parameters(recurse=False)}
        trained = [n for n, p in own.items() if p.requires_grad]
        names += trained
        if trained:
            buffers = (n for n, _ in module.named_buffers(recurse=False) if n != "num_batches_tracked")
            names += [f"{prefix}.{n}".lstrip(".") for n in buffers]
    return [n for n in model.state_dict() if n in set(names)]


def recorded(content: Mapping[str, Any], key: str = "", percent: bool = True) -> dict[str, Any]:
    """The epoch that a file records, and its best accuracy as a share, as entries of a manifest.

    Args:
        key: of the accuracy, where it is recorded.
        percent: whether it is in percent there.
    """
    epoch, best = number_of(content.get("epoch")), number_of(content.get(key))
    shares = {} if best is None else {"accuracy": best / 100 if percent else best}
    return {"epoch": None if epoch is None else int(epoch), "accuracy": shares}


def number_of(value: Any) -> float | None:
    """A finite number from a Python or tensor scalar, otherwise None."""
    if isinstance(value, Tensor):
        value = value.item() if value.numel() == 1 else None
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return None
    if isinstance(value, int) and abs(value) > 10**12:
        return None
    number = float(value)
    return number if abs(number) < 1e12 else None


def _into(
    model: nn.Module, title: str, state: State, path: str, prefix: str, options: Options, known: dict[str, Any]
) -> Reading:
    """The weights in a network that the caller built, whose own names may begin like a wrapper's."""
    given = {"scale (--logit-scale)": options.scale, "num_classes": options.num_classes, "head (--head)": options.head}
    idle = [name for name, value in given.items() if value is not None]
    if idle:
        raise UserError(f"{' and '.join(idle)}: the network for {path} is given, which settles that: leave it out")
    # The network's own names may begin with what was stripped as a wrapper's prefix, so it is put back first.
    whole = {prefix + n: t for n, t in state.items()}
    # All entries first, then the trained ones alone: a file may leave out frozen parts on purpose.
    starts = covering_prefixes(whole, model.state_dict()) or covering_prefixes(whole, trained_names(model))
    if len(starts) > 1:
        listed = ", ".join(shown(start) or "no prefix" for start in starts)
        raise UserError(
            f"{path} holds all weights of {type(model).__name__} {len(starts)} times ({listed}): save one alone"
        )
    prefix = starts[0] if starts else prefix
    own = {n.removeprefix(prefix): t for n, t in whole.items() if n.startswith(prefix)}
    kept = [n for n in model.state_dict() if n not in own and not n.endswith("num_batches_tracked")] if starts else []
    lacks = [n for n in trained_names(model) if n not in own]
    if lacks and own.keys() <= model.state_dict().keys():
        raise UserError(
            f"{path} does not fit the model {type(model).__name__}: {len(lacks)} missing ({some(lacks)}); what a "
            "file leaves out on purpose must be frozen in the network given, requires_grad_(False)"
        )
    more = [n for n in own if n not in model.state_dict()]
    if more and not lacks and starts:
        start = f"{shown(prefix)!r} + " if prefix else ""
        raise UserError(
            f"{path} does not fit the model {type(model).__name__}: {len(more)} unexpected ({some(more)}); give one "
            "with these, or, if they serve training alone, save what it takes, "
            f"{{n: state[{start}n] for n in model.state_dict()}}"
        )
    load_weights(model, own | {n: model.state_dict()[n] for n in kept}, where=path)
    beside = [n for n in whole if not n.startswith(prefix)]
    notes = ["the network was given, its logits are taken to be calibrated", *known.pop("notes", ())]
    if kept:
        notes.append(f"the file leaves {len(kept)} frozen entries of the network as they were given: {some(kept)}")
        logger.info("%s: %s", path, notes[-1])
    if beside:
        notes.append(f"{len(beside)} entries outside {shown(prefix)} belong to other things: {some(beside)}")
    known |= {"prefix": prefix, "notes": notes}
    return Reading(model.eval(), _manifest(title, Network(type(model).__name__), Setup(), known))


def _manifest(title: str, model: Network, setup: Setup, known: dict[str, Any]) -> Manifest:
    """The manifest of a file of a family; what only this family knows is ``extra``."""
    names = {f.name for f in fields(Manifest)}
    given: dict[str, Any] = {**vars(setup), **known, "notes": [*setup.notes, *known["notes"]]}
    extra = {name: value for name, value in given.items() if name not in names}
    return Manifest(model, family=title, extra=extra, **{n: v for n, v in given.items() if n in names})
