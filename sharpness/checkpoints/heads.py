"""Readings of classifier heads: kind, layout and scale of the entries of a state dict, and what a file leaves open.

Names and shapes of a linear and a normalised head can be the same: the difference is in the code, and a scale in the
loss. What a family's code does settles it, then the layout; where a file leaves it open, that is said.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor, nn

from sharpness.checkpoints.networks import GIVE_NETWORK, State, filled, some
from sharpness.errors import UserError, choose, shown
from sharpness.models import CosineHead, LearnableWeightScaling, LinearHead, ScaledHead

#: Kinds, and what :class:`~sharpness.models.ScaledHead` brings to length 1 for each.
UNITS = {"linear": "none", "cosine": "both", "unit-features": "features", "unit-weights": "weights"}
ROWS, COLUMNS = "[C, d]", "[d, C]"
COSINE_SCALE = 30.0

_PREFIXES = ("", "fc.", "fc_.", "linear.", "classifier.", "classifier.fc.", "head.", "head.fc.", "last_linear.")
_FACTORS = ("learned_norm", "scales", "factor")
_SCALES = ("scale", "sigma", "s", "weight_scale", "logit_scale", "temperature", "tau")
#: Weight normalisation, old and new: direction and length of the same weight.
_NORMED = (("weight_v", "weight_g"), ("parametrizations.weight.original1", "parametrizations.weight.original0"))
#: A learnt ``logit_scale`` is a logarithm in CLIP's code, cut off at that of 100; others keep the number itself.
_LARGEST_LOGARITHM = 4.7


@dataclass(frozen=True)
class HeadReading:
    """The reading of a head: kind, layout and scale.

    Attributes:
        kind: one of ``UNITS``.
        layout: ``"[C, d]"`` or ``"[d, C]"``, how the file stores its weight.
        scale: of the logits; 1 for a linear one.
    """

    kind: str
    layout: str = ROWS
    scale: float = 1.0

    def __str__(self) -> str:
        return f"{self.kind} {self.layout}"


@dataclass(frozen=True)
class HeadHabits:
    """The conventions of a family for heads without bias; None where its files leave it open.

    Attributes:
        rows: kind of one that is stored as ``[C, d]``.
        columns: kind of one that is stored as ``[d, C]``.
        square: layout of one with C = d.
        scale: of a normalised one.
    """

    rows: str | None = None
    columns: str | None = None
    square: str | None = None
    scale: float = COSINE_SCALE


UNKNOWN = HeadHabits()


@dataclass(frozen=True)
class Head:
    """A head with its weights.

    Attributes:
        module: features (n, d) to calibrated logits (n, C).
        reading: how it was read.
        open: all readings that the file allows, the one taken first; empty where it is settled.
        doubt: what is to be said of that.
        notes: what else is to be said of it.
        rest: the entries that are not its own.
    """

    module: nn.Module
    reading: HeadReading
    open: tuple[HeadReading, ...]
    doubt: str
    notes: tuple[str, ...]
    rest: State


def parse_head(asked: str) -> tuple[str, str | None]:
    """Kind and layout of ``"KIND"`` or ``"KIND [C, d]"``.

    Raises:
        UserError: neither.

    >>> parse_head("cosine"), parse_head("linear [d,C]")
    (('cosine', None), ('linear', '[d, C]'))
    """
    kind, bracket, layout = str(asked).partition("[")
    choose("head", kind.strip(), list(UNITS))
    if not bracket:
        return kind.strip(), None
    found = next((x for x in (ROWS, COLUMNS) if "".join(layout.split()) == x[1:].replace(" ", "")), None)
    if found is None:
        raise UserError(f"unknown layout of head {asked!r}: write it as '{kind.strip()} {ROWS}' or '... {COLUMNS}'")
    return kind.strip(), found


def read_head(
    state: Mapping[str, Tensor],
    num_features: int,
    path: str,
    asked: str | None = None,
    scale: float | None = None,
    habits: HeadHabits = UNKNOWN,
) -> Head:
    """The classifier among the entries of a state.

    With a bias it is linear. Without, it is what the family's code has; where that is not known, one that is stored as
    ``[C, d]`` is taken as linear unless there is a scale, one that is stored as ``[d, C]``, as LDAM's code does, as a
    cosine head, and both are listed as open.

    Args:
        asked: ``"KIND"`` or ``"KIND [C, d]"``, which decides.
        scale: of the logits, which decides.
        habits: of the family.

    Raises:
        UserError: no classifier, several, or one for other features; a scale for a linear one; a layout that does not
            fit.
    """
    folded, notes = _folded(state)
    found = [p for p in _PREFIXES if f"{p}weight" in folded and folded[f"{p}weight"].ndim == 2]
    if len(found) != 1:
        what = "no classifier" if not found else f"{len(found)} classifiers"
        raise UserError(
            f"{path} holds {what} that is known here (names beside the backbone: {some(state)}): {GIVE_NETWORK}"
        )
    own = {part: f"{found[0]}{part}" for part in ("weight", "bias") if f"{found[0]}{part}" in folded}
    weight, bias = folded[own["weight"]], folded.get(own.get("bias", ""))
    rest = {n: t for n, t in folded.items() if n not in own.values()}
    kept, rest = _kept_scale(rest, path)
    stored = _layouts(tuple(weight.shape), num_features, path)
    kind, layout = parse_head(asked) if asked else (None, None)
    if layout not in (None, *stored):
        raise UserError(f"head={asked!r} was given, and the head in {path} is stored as {stored[0]}: leave that out")
    # A square weight fits both layouts: without a bias the names of LDAM's and RSG's heads decide.
    square = len(stored) > 1
    guess = habits.square or (COLUMNS if found[0] in ("linear.", "fc_.") and bias is None else ROWS)
    taken = layout or (guess if square else stored[0])
    known = habits.rows if taken == ROWS else habits.columns
    if kind is None and bias is not None and scale is not None:
        raise UserError(
            f"scale={scale:g} was given, and the head in {path} has a bias, as linear ones do: give head='cosine' "
            "(--head cosine) if it is normalised, head='linear' if that is a temperature"
        )
    # Most certain first: what the caller asks for, a bias (no normalised head has one), the family, then the layout.
    scaled = taken == COLUMNS or scale is not None or kept is not None
    kinds = [kind] if kind else ["linear"] if bias is not None else [known] if known else []
    kinds = kinds or (["cosine", "linear"] if scaled else ["linear", "cosine"])
    kinds = kinds[:1] if scale is not None else kinds
    layouts = [taken, *(x for x in stored if x != taken and bias is None and not layout and not habits.square)]
    usual = {"cosine": habits.scale if kept is None else kept}
    known_scale = scale if scale is not None else kept
    readings = [HeadReading(k, x, usual.get(k, 1.0)) for x in layouts for k in kinds]
    reading = readings[0] if known_scale is None else replace(readings[0], scale=known_scale)
    if kept is not None:
        used = "taken" if scale is None else "not taken, scale= is"
        notes.append(f"the file holds a logit scale of {kept:g}, which is {used} and held fixed")
    elif scale is None and reading.kind == "cosine":
        notes.append(f"the logit scale is not in the file: {reading.scale:g} is the usual one, pass scale= for another")
    module = _built(reading, weight, bias, path)
    module, rest = _scaled_by_class(module, rest, path)
    if not readings[1:]:
        return Head(module, reading, (), "", tuple(notes), rest)
    return Head(module, reading, (reading, *readings[1:]), _told_open(reading, square), tuple(notes), rest)


def reread(head: nn.Module, taken: HeadReading, other: HeadReading, path: str) -> nn.Module:
    """The same weights as another reading has them.

    Raises:
        UserError: a scale that is not positive.
    """
    if isinstance(head, LearnableWeightScaling):
        wrapped = LearnableWeightScaling(reread(head.head, taken, other, path), len(head.factor))
        wrapped.to(head.factor.dtype).factor.data.copy_(head.factor.data)
        return wrapped
    weight = head.get_parameter("weight").data
    rows = weight.T if isinstance(head, CosineHead) else weight
    stored = rows if taken.layout == ROWS else rows.T
    bias = getattr(head, "bias", None)
    return _built(other, stored, None if bias is None else bias.data, path)


def _built(reading: HeadReading, weight: Tensor, bias: Tensor | None, path: str) -> nn.Module:
    rows = weight if reading.layout == ROWS else weight.T
    classes, features = rows.shape
    own = {"weight": rows} if bias is None else {"weight": rows, "bias": bias}
    build: Callable[[], nn.Module]
    if reading.kind == "linear" and reading.scale == 1:
        build = partial(LinearHead, features, classes, bias is not None)
    elif reading.kind == "cosine" and bias is None:
        build, own = partial(CosineHead, features, classes, reading.scale), {"weight": rows.T}
    else:
        build = partial(ScaledHead, features, classes, UNITS[reading.kind], reading.scale, bias is not None)
    return filled(build, {name: t.contiguous() for name, t in own.items()}, path)


def _layouts(shape: tuple[int, ...], num_features: int, path: str) -> list[str]:
    """Layouts that a weight of this shape can have."""
    found = [layout for layout, axis in ((ROWS, 1), (COLUMNS, 0)) if shape[axis] == num_features]
    if not found:
        raise UserError(
            f"the classifier in {path} has shape {shape} and the features are {num_features}: {GIVE_NETWORK}"
        )
    return found


def _told_open(taken: HeadReading, square: bool) -> str:
    shape, what = ("is square", str(taken)) if square else (f"is stored as {taken.layout}", taken.kind)
    more = f", with {ROWS} or {COLUMNS} behind it," if square else ""
    return (
        f"the head has no bias and {shape}: the file does not tell whether it is linear or normalised; taken as "
        f"{what}: head='linear' or 'cosine' (--head){more} and scale= (--logit-scale) decide"
    )


def _folded(state: Mapping[str, Tensor]) -> tuple[State, list[str]]:
    """Replace the direction and length of weight normalisation by the weight itself; also notes on it."""
    folded, notes = dict(state), []
    for direction, length in _NORMED:
        for name in [n for n in state if n.endswith(direction)]:
            prefix = name.removesuffix(direction)
            if f"{prefix}{length}" not in folded or folded[name].ndim != 2:
                continue
            v, g = folded.pop(name), folded.pop(f"{prefix}{length}")
            axes = [axis for axis in range(2) if g.ndim != 2 or g.shape[axis] == 1]
            folded[f"{prefix}weight"] = g * v / v.norm(dim=axes, keepdim=True)
            notes.append(f"{shown(prefix)}weight is kept as direction and length (weight_norm): their product is taken")
    return folded, notes


def _kept_scale(rest: State, path: str) -> tuple[float | None, State]:
    """The scale of the logits that a file keeps as a number of its own, and the other entries."""
    names = [n for n, t in rest.items() if n.split(".")[-1] in _SCALES and t.numel() == 1]
    if len(names) != 1:
        return None, rest
    name, value = names[0], float(rest[names[0]])
    last = name.split(".")[-1]
    if last == "logit_scale" and value < _LARGEST_LOGARITHM:
        value = math.exp(value)
    elif last in ("temperature", "tau"):
        value = 1 / value if value else math.inf
    if not (0 < value < math.inf):
        raise UserError(f"{path} keeps {shown(name)} = {float(rest[name]):g}, which is no scale of logits")
    return value, {n: t for n, t in rest.items() if n != name}


def _scaled_by_class(head: nn.Module, rest: State, path: str) -> tuple[nn.Module, State]:
    """Put the learnt factor of every class over the head, if the file has one."""
    name = next((n for n in rest if n.split(".")[-1] in _FACTORS), None)
    if name is None:
        return head, rest
    weight = head.get_parameter("weight")
    classes = weight.shape[1] if isinstance(head, CosineHead) else weight.shape[0]
    if rest[name].numel() != classes:
        raise UserError(f"{shown(name)} in {path} has {rest[name].numel()} factors for {classes} classes")
    scaled = LearnableWeightScaling(head, classes).to(weight.dtype)
    scaled.factor.data.copy_(rest[name].flatten())
    return scaled, {n: t for n, t in rest.items() if n != name}
