"""What every family's reader shares: options in, a model and its manifest out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from sharpness.checkpoints.families.datasets import DATASETS, Recipe
from sharpness.checkpoints.networks import State, load_strictly, read_backbone, read_head, require_nothing_left
from sharpness.checkpoints.prefixes import strip_prefixes
from sharpness.errors import UserError
from sharpness.models import Classifier, CosineHead, LearnableWeightScaling, ModelSpec

WEIGHTS = ("model", "ema", "swa")


@dataclass(frozen=True)
class Options:
    """What the caller knows.

    Attributes:
        scale: s of a normalised head, which repositories keep in the loss and not in the file.
        stage2: content of the second file, where a method has two.
        stage2_path: its path.
        num_classes: C, to be checked against the file.
        weights: ``"model"``, ``"ema"`` or ``"swa"``, where the file holds several.
        model: a network to take the weights, for architectures that are not known here.
    """

    scale: float | None = None
    stage2: Any = None
    stage2_path: str | None = None
    num_classes: int | None = None
    weights: str = "model"
    model: nn.Module | None = None


@dataclass(frozen=True)
class Reading:
    """A model in eval mode that returns calibrated logits (n, C), and plain values about it."""

    model: nn.Module
    manifest: dict[str, Any]


def is_state(content: object) -> bool:
    """Whether this is a state dict: names to tensors, and not empty."""
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())
    )


def assemble(
    family: str,
    state: Mapping[str, Tensor],
    path: str,
    options: Options,
    *,
    head: Mapping[str, Tensor] | None = None,
    prefix: str | None = None,
    default_scale: float = 30.0,
    shortcut: str = "both",
    ignored: Sequence[str] = (),
    unused: Sequence[str] = (),
    recipes: Mapping[int, Recipe] = DATASETS,
    **known: Any,
) -> Reading:
    """Backbone and head from state dicts, and the manifest.

    Args:
        state: of the backbone, and of the head if ``head`` is None.
        head: state of the head, from elsewhere.
        prefix: that was stripped before; otherwise it is stripped here.
        default_scale: of a normalised head, unless ``options.scale`` is given.
        ignored: parts of names that a family is known to leave behind.
        unused: parts of names of parameters that the forward pass never uses; they are left out and listed.
        recipes: what is known of the data from the number of classes.
        known: further entries of the manifest.

    Raises:
        UserError: the entries do not make a network known here.
    """
    if prefix is None:
        state, prefix = strip_prefixes(state)
    dead = [n for n in state if any(part in n for part in unused)]
    state = {n: t for n, t in state.items() if n not in dead}
    if options.model is not None:
        return _into(options.model, family, {**state, **(head or {})}, path, prefix, options, known)
    architecture, backbone, rest = read_backbone(state, path, shortcut)
    entries: State = dict(rest) if head is None else dict(head)
    left = [] if head is None else list(rest)
    normalised = not any(n.split(".")[-1] == "bias" for n in entries)
    scale = options.scale if options.scale is not None or not normalised else default_scale
    built, layout, surplus = _head(entries, backbone, scale, options.scale, path)
    require_nothing_left([*left, *surplus], path, ignored)
    inner = built.head if isinstance(built, LearnableWeightScaling) else built
    cosine = isinstance(inner, CosineHead)
    classes = inner.weight.shape[1 if cosine else 0]  # type: ignore[index]
    if options.num_classes not in (None, classes):
        raise UserError(f"num_classes={options.num_classes} was given, but the classifier in {path} has {classes}")
    kind = ("cosine" if cosine else "linear") + ("+lws" if inner is not built else "")
    channels = backbone.get_parameter("conv1.weight").shape[1]
    used = float(inner.scale) if isinstance(inner, CosineHead) else None
    spec = ModelSpec(architecture, int(classes), int(channels), kind, used)
    recipe = recipes.get(int(classes), Recipe())
    notes = [*recipe.notes, *known.pop("notes", ())]
    if cosine and options.scale is None:
        notes.append(f"the logit scale is not in the file: {used:g} is the usual one, pass scale= for another")
    if cosine and layout == "[d, C]" and inner.weight.shape[0] == inner.weight.shape[1]:  # type: ignore
        notes.append("the head is square: taken as normalised because it has no bias")
    manifest = {
        "family": family,
        "model": spec.to_dict(),
        "head_layout": layout,
        "stage": None,
        "prefix": prefix,
        "epoch": None,
        "accuracy": {},
        "class_order": recipe.class_order,
        "dataset": recipe.dataset,
        "normalization": recipe.normalization,
        "subset": dict(recipe.subset) if recipe.subset else None,
        "unused_parameters": dead,
        "notes": notes,
        **known,
    }
    return Reading(Classifier(backbone, built, spec).eval(), manifest)


def accuracy(value: Any, percent: bool) -> dict[str, float]:
    """The recorded best accuracy as a share, if there is one."""
    number = number_of(value)
    return {} if number is None else {"accuracy": number / 100 if percent else number}


def number_of(value: Any) -> float | None:
    """A number from a Python, NumPy or tensor scalar, otherwise None."""
    if isinstance(value, Tensor):
        value = value.item() if value.numel() == 1 else None
    if isinstance(value, np.ndarray):
        value = value.item() if value.size == 1 else None
    if isinstance(value, bool) or not isinstance(value, int | float | np.generic):
        return None
    return float(value)


def epoch_of(content: Mapping[str, Any]) -> int | None:
    """The recorded epoch."""
    number = number_of(content.get("epoch"))
    return None if number is None else int(number)


def _head(
    entries: State, backbone: nn.Module, scale: float | None, given: float | None, path: str
) -> tuple[nn.Module, str, State]:
    features = int(backbone.num_features)  # type: ignore[arg-type]
    plausible = any(n.endswith("weight") and t.ndim == 2 and t.shape[0] == features for n, t in entries.items())
    return read_head(entries, features, scale if plausible else given, path)


def _into(
    model: nn.Module,
    family: str,
    state: Mapping[str, Tensor],
    path: str,
    prefix: str,
    options: Options,
    known: dict[str, Any],
) -> Reading:
    load_strictly(model, state, path)
    notes = ["the network was given, its logits are taken to be calibrated", *known.pop("notes", ())]
    facts = {"architecture": type(model).__name__, "num_classes": options.num_classes, "head": None, "scale": None}
    blank = dict.fromkeys(("head_layout", "stage", "epoch", "class_order", "dataset", "normalization", "subset"))
    manifest = {"family": family, "model": facts, **blank, "prefix": prefix, "accuracy": {}, "notes": notes, **known}
    return Reading(model.eval(), {"unused_parameters": [], **manifest})
