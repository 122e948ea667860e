"""Targets, which are whatever the loss takes, and classes, by which answers are split: two things."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sharpness.data.tensors import column
from sharpness.errors import UserError, require_whole
from sharpness.extensions import in_one_line
from sharpness.identity import ONE_CLASS

#: A larger index is a mistake, and every class costs memory.
MOST_CLASSES = 10**6
#: How far the class probabilities of a sample may add up to something else than 1: rounding in half precision.
ROUNDING = 1e-2


@dataclass(frozen=True)
class Classes:
    """The classes by which results are split.

    Attributes:
        index: (n,) int64 on the CPU, the class of every sample.
        number: C, of classes.
        names: (C,), or None where they have numbers alone.
        source: ``"labels"``, ``"classes"``, ``"group_by"``, or ``"none"``: one class.
    """

    index: Tensor
    number: int
    names: tuple[str, ...] | None
    source: str


def plain_targets(y: Tensor, dtype: torch.dtype) -> Tensor:
    """Targets on the CPU as the loss gets them: real numbers in the model's dtype, integers in int64."""
    y = y.cpu()
    if y.is_floating_point():
        return y.to(dtype)
    return y if y.is_complex() or y.dtype == torch.bool else y.long()


def are_labels(y: Tensor) -> bool:
    """True if targets are one integer, or one truth value, for each sample."""
    return y.ndim == 1 and not y.is_floating_point() and not y.is_complex()


def cross_entropy_targets(y: Tensor, outputs: Sequence[int]) -> Tensor:
    """Convert targets for ``loss="ce"``: to labels (n,), or to class probabilities (n, C) in float64.

    Args:
        y: as given: labels (n,) or (n, 1), or for every sample the probabilities of all classes, such as one-hot.
        outputs: the shape of the model's for some samples.

    Raises:
        UserError: cross-entropy has no meaning for them; says which loss to pass.

    >>> cross_entropy_targets(torch.tensor([2, 0]), (2, 3))
    tensor([2, 0])
    """
    # What cross-entropy would take without complaint and get wrong is refused first.
    told, got = f"targets {told_of(y)}", f"outputs of shape {tuple(outputs)}"
    if len(outputs) > 2 and len(outputs) - y.ndim in (0, 1) and y.ndim > 1:
        steps = " or, of tokens (n, t, C), .transpose(1, 2) of the outputs" if len(outputs) == 3 else ""
        raise UserError(
            f"{told} and {got}: loss='ce' takes one prediction for each sample; pass loss=lambda u, t: "
            f"F.cross_entropy(u, t, reduction='none').flatten(1).mean(1){steps}"
        )
    if len(outputs) != 2:
        raise UserError(f"the model returns {got}: cross-entropy takes one logit for each class, (n, C); pass another "
                        "loss, or output= that picks the logits")  # fmt: skip
    # A single class, all labels 0, is possible: its loss is 0.
    if outputs[1] == 1 and bool((y != 0).any()):
        raise UserError(
            f"the model returns {got}: cross-entropy of a single logit is always 0; for two classes pass loss=lambda "
            "u, t: F.binary_cross_entropy_with_logits(u.squeeze(1), t.to(u), reduction='none'), for numbers "
            "loss=lambda u, t: (u.squeeze(1) - t) ** 2"
        )
    if y.ndim == 2 and y.shape[1] == 1 and not y.is_floating_point():
        y = y.squeeze(1)
    if are_labels(y):
        return y.long()
    if y.ndim == 1 and y.is_floating_point():
        whole = bool((y == y.round()).all())
        remedy = "class labels must be integers, y.long()" if whole else "these are no class labels"
        raise UserError(
            f"{told}: {remedy}; for real-valued targets pass a loss, such as loss=lambda u, t: (u.squeeze(1) - t) ** 2"
        )
    if y.ndim != 2 or y.shape[1] != outputs[1] or y.is_complex():
        raise UserError(
            f"{told} and {got}: loss='ce' takes labels (n,), or class probabilities (n, {outputs[1]}); pass the loss "
            "that goes with these targets, a function of outputs and targets to one value per sample"
        )
    y = y.double()
    wrong = ~(((y.sum(1) - 1).abs() <= ROUNDING) & (y >= 0).all(1))
    if bool(wrong.any()):
        first = int(wrong.nonzero()[0])
        raise UserError(
            f"targets {told_of(y)} of sample {first} are {[round(v, 4) for v in y[first, :4].tolist()]}...: loss='ce' "
            "takes probabilities, which add up to 1; where several labels are true at once pass loss=lambda u, t: "
            "F.binary_cross_entropy_with_logits(u, t.to(u), reduction='none').mean(1)"
        )
    return y


def classes_of(
    x: Any,
    y: Tensor,
    width: int | None,
    *,
    num_classes: int | None = None,
    classes: Any = None,
    group_by: Any = None,
    class_names: Sequence[str] | None = None,
) -> Classes:
    """The class of every sample: by ``classes`` or ``group_by``, else by labels, else all in one.

    Args:
        x: inputs, as they were given, for a function ``group_by``.
        y: targets as the loss gets them.
        width: of outputs (n, width), None of others.
        classes, group_by, num_classes, class_names: see :class:`~sharpness.Objective`.

    Raises:
        UserError: both are given, are not one for each sample, or are out of range.
    """
    if num_classes is not None:
        require_whole("num_classes", num_classes, least=1)
    if classes is not None and group_by is not None:
        raise UserError("classes= and group_by=: give one of them")
    if group_by is not None:
        return _grouped(x, y, group_by, num_classes, class_names)
    # Checked as labels are, and apart from them: targets of these samples may be anything, and outputs of any width.
    if classes is not None:
        if _are_names(classes):
            raise UserError(f"classes= are names, such as {next(iter(classes))!r}: give them as group_by=")
        index = column(classes, "classes")
        if not are_labels(index):
            raise UserError(f"classes= are {told_of(index)}: give one integer per sample; for names, group_by=")
        _require_one_each("classes=", len(index), len(y))
        if int(index.min()) < 0:
            raise UserError(
                f"class {int(index.min())} of sample {int(index.argmin())} in classes= is below 0: number the classes "
                "from 0, and leave samples of no class out of the data"
            )
        known = len(class_names) if class_names is not None else None
        # Not the width of the outputs: these classes split answers, and may be more or fewer than what is predicted.
        number = num_classes if num_classes is not None else known or int(index.max()) + 1
        if number > MOST_CLASSES:
            raise UserError(f"classes= go up to {number - 1:,}: number them from 0, or give group_by=")
        remedy = "correct classes=, num_classes= or class_names="
        return Classes(within(index, number, "class", remedy), number, None, "classes")
    if not are_labels(y):
        if num_classes not in (None, 1, width):
            raise UserError(f"num_classes={num_classes}, but targets {told_of(y)} are no labels, and outputs have "
                            f"width {width}: say with classes= or group_by= what to split answers by")  # fmt: skip
        return Classes(torch.zeros(len(y), dtype=torch.int64), 1, ONE_CLASS, "none")
    remedy = "correct the labels or num_classes; numbers that are no labels must be floats, y.float()"
    # Integers may be counts or ratings as well: without a width that says how many classes there are, only 0 and 1 are
    # taken for labels.
    if num_classes is None and (width is None or width == 1):
        if int(y.long().min()) < 0 or int(y.long().max()) > 1:
            raise UserError(
                f"integer targets from {int(y.min())} to {int(y.max())} and outputs that are not (n, C): are they "
                "labels? then pass num_classes=; if they are numbers, make them floats, y.float()"
            )
        width = int(y.long().max()) + 1  # of one logit: no and yes
    number = num_classes if num_classes is not None else int(width or 0)
    return Classes(within(y, number, "label", remedy), number, None, "labels")


def answers_of(y: Tensor, width: int | None, labels: int | None, every: bool) -> int | None:
    """The width of outputs that are logits over labels; None where targets are no labels, or outputs no logits.

    Args:
        y: targets as the loss gets them.
        width: of outputs (n, width), None of others.
        labels: how many classes the labels number; None where samples are split otherwise.
        every: whether labels must be among them, because the loss is cross-entropy.

    Raises:
        UserError: they must, and are not.
    """
    if width is None or not are_labels(y):
        return None
    known = width if labels is None else labels
    if every and width != known:
        raise UserError(
            f"the model returns outputs of shape (n, {width}), and there are {number_of(known)}: cross-entropy takes "
            "one logit for each class"
            + ("; train_counts= of read_images (--train-counts) names classes without images" if known < width else "")
        )
    if every:
        within(y, width, "label", "the model has no such output, correct the labels")
    inside = int(y.long().min()) >= 0 and int(y.long().max()) < width
    return width if inside and width == known and width > 1 else None


def _are_names(values: Any) -> bool:
    """True for texts in a list or an array."""
    return hasattr(values, "__len__") and len(values) > 0 and isinstance(next(iter(values)), str)


def _grouped(x: Any, y: Tensor, group_by: Any, num_classes: int | None, class_names: Sequence[str] | None) -> Classes:
    """Classes by values of any kind, such as names of domains or annotators."""
    values = group_by
    if callable(group_by):
        try:
            values = group_by(x, y)
        except Exception as error:
            told = in_one_line(error)
            raise UserError(f"group_by= raised {told}: give a function of (inputs, targets), of all samples") from error
    if isinstance(values, str | Mapping) or not hasattr(values, "__len__"):
        raise UserError(f"group_by= is a {type(values).__name__}: give one value per sample, or a function of "
                        "(inputs, targets) that does")  # fmt: skip
    if hasattr(values, "tolist"):
        values = values.tolist()
    values = list(values)
    _require_one_each("group_by=", len(values), len(y))
    bad = next((i for i, v in enumerate(values) if not isinstance(v, Hashable) or v != v), None)
    if bad is not None:
        raise UserError(f"group_by= has {values[bad]!r} for sample {bad}: give a number or a name for every sample")
    # Sorted as values, because 10 comes after 9, and named only then; two values of one name would be one class.
    distinct = set(values)
    try:
        names = [str(v) for v in sorted(distinct)]
    except TypeError:  # of several kinds, such as names and None
        names = sorted(str(v) for v in distinct)
    if len(set(names)) < len(names) or num_classes not in (None, len(names), len(class_names or ())):
        raise UserError(
            f"group_by= has {len(names)} distinct values: make their names different, and leave num_classes out"
        )
    if class_names is not None:
        unknown = sorted(set(names) - set(class_names))
        if unknown:
            raise UserError(
                f"group_by= has {unknown[0]!r}, which is not in class_names: leave class_names out, or name all, "
                "in the order that the classes shall have"
            )
        names = list(class_names)
    # By the names: class_names may have classes of which there is no sample here, in any order.
    position = {name: c for c, name in enumerate(names)}
    name_of = {value: str(value) for value in distinct}  # equal values, such as 1 and 1.0, are one
    index = torch.tensor([position[name_of[v]] for v in values])
    return Classes(index, len(names), tuple(names), "group_by")


def _require_one_each(what: str, given: int, samples: int) -> None:
    if given != samples:
        raise UserError(f"{what} has {given} entries for {samples} samples: give one for each")


def within(index: Tensor, number: int, what: str, remedy: str) -> Tensor:
    """Whole numbers (n,) as int64, if all are in ``0..number - 1``.

    Raises:
        UserError: names the first that is not, a ``what``, and the remedy.
    """
    index = index.cpu().long()
    outside = (index < 0) | (index >= number)
    if bool(outside.any()):
        bad = int(outside.nonzero()[0])
        if what == "label" and int(index.min()) == 1 and int(index.max()) == number:
            remedy = "labels are counted from 1, give y - 1"
        elif what == "label" and int(index[bad]) < 0:
            remedy = "leave samples without a label out, x[y >= 0] and y[y >= 0]; numbers must be floats, y.float()"
        raise UserError(f"{what} {int(index[bad])} of sample {bad} is outside 0..{number - 1}: {remedy}")
    return index


def told_of(y: Tensor) -> str:
    """Shape and dtype as text, with n for the samples.

    >>> told_of(torch.zeros(5, 3))
    '(n, 3) of float32'
    """
    return f"({', '.join(['n', *map(str, y.shape[1:])])}{',' * (y.ndim == 1)}) of {str(y.dtype).removeprefix('torch.')}"


def number_of(classes: int) -> str:
    """A number of classes as text."""
    return "1 class" if classes == 1 else f"{classes} classes"
