"""The loss between models: along the line between two, and over the plane through three."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Unpack

import numpy as np
import pandas as pd

from sharpness.checkpoints import Checkpoint
from sharpness.errors import UserError, choose
from sharpness.objective import Objective
from sharpness.probes.directions.between_models import Weights, read_subject, require_reachable, toward
from sharpness.probes.directions.direction_set import Directions
from sharpness.probes.landscapes.line_and_plane import LandscapeOptions, Range, line, plane
from sharpness.probes.shared.probe import comparable
from sharpness.results import LineResult, PlaneResult

#: Smallest distance of the third model from the line through the first two, relative to its distance from the first.
OFF_LINE = 1e-6
QUANTITIES = ("loss", "error")


@comparable
def interpolate(
    objective: Objective,
    other: Weights,
    x: Range = (0, 1, 25),
    *,
    names: Sequence[str] | None = None,
    **options: Unpack[LandscapeOptions],
) -> LineResult:
    """Evaluate the loss on the line from one model to another, ``L((1 - x) w + x w_other)``, overall and per class.

    The model is at x = 0, the other at x = 1 (Goodfellow, Vinyals and Saxe, ICLR 2015). Use :func:`barrier` for the
    rise of the loss on the way.

    Args:
        objective: an objective, a model with ``data`` or a checkpoint; or ``{label: one of these}``, to compare them.
        other: a model of the same architecture, a checkpoint or its path, an objective, or a state dict.
        x: from, to, number of points; both ends included.
        names: names of the two models, for the marks.
        options: see :class:`~sharpness.probes.landscapes.line_and_plane.LandscapeOptions`.

    Returns:
        A line as from :func:`~sharpness.line`, with both models as marks.
        For a mapping, a :class:`~sharpness.Comparison` of such results by label.

    Raises:
        UserError: a different architecture, identical weights, or BatchNorm statistics that differ while the
            objective's policy is ``"eval"``.

    From the loss 0 at w = 0 to the loss 3 at w = (1, 0):

    >>> import torch
    >>> model, data = torch.nn.Linear(2, 1, bias=False), (torch.tensor([[3.0, 1.0]]), torch.tensor([0]))
    >>> _ = torch.nn.init.zeros_(model.weight)
    >>> objective = Objective(model, data, loss=lambda outputs, y: outputs[:, 0])
    >>> interpolate(objective, {"weight": torch.tensor([[1.0, 0.0]])}, (0, 1, 3)).losses.tolist()
    [0.0, 1.5, 3.0]
    """
    other = read_subject(objective, other)
    direction = toward(objective, other)
    if not bool(direction.any()):
        raise UserError("the other model has the same weights: there is no line between them")
    require_reachable(objective, other)
    ends = Directions.of(
        objective, [direction], "models", marks=np.array([[0.0], [1.0]]), mark_names=_names(names, (objective, other))
    )
    return line(objective, x, ends, precision=options["precision"], resume=options["resume"])


def barrier(line: LineResult, of: str = "loss") -> pd.DataFrame:
    r"""Compute the barrier of a path between two models: its largest rise above the chord between its ends.

    .. math:: \max_{0 \le x \le 1} L(x) - [(1 - x) L(0) + x L(1)]

    overall, per group and per class (Entezari et al., ICLR 2022); zero if the path never rises above the chord. If both
    ends have equal losses, this is the instability of Frankle et al. (ICML 2020), who subtract the mean of the ends and
    use the error. The maximum is taken over the points of the line, so it is a lower bound.

    Args:
        line: a result of ``interpolate`` whose points include 0 and 1.
        of: ``"loss"``, or ``"error"``, the classification error.

    Returns:
        One row for all samples, every group and every class: ``class``, ``group``, ``samples``, ``barrier`` and
        ``position`` (the x of the maximum). NaN for classes without samples.

    Raises:
        UserError: the line lacks the point 0 or 1.

    The loss :math:`(w - 1)^2 / 2` between w = 0 and w = 2; the path dips below both ends:

    >>> import torch
    >>> model, data = torch.nn.Linear(1, 1, bias=False), (torch.ones(1, 1), torch.ones(1))
    >>> _ = torch.nn.init.zeros_(model.weight)
    >>> objective = Objective(model, data, loss=lambda outputs, y: (outputs[:, 0] - y) ** 2 / 2)
    >>> barrier(interpolate(objective, {"weight": torch.tensor([[2.0]])}, (0, 1, 5))).barrier.tolist()[0]
    0.0
    """
    choose("barrier", of, QUANTITIES)
    order = np.argsort(line.x, kind="stable")
    x = line.x[order]
    first, last = (int(np.abs(x - end).argmin()) for end in (0, 1))
    if not np.allclose(x[[first, last]], [0, 1], rtol=0, atol=1e-9):
        raise UserError(
            f"the line from {line.x[0]:g} to {line.x[-1]:g} lacks the point 0 or 1, where the models are: take "
            "x=(0, 1, 25)"
        )
    inside = order[first : last + 1]
    x = line.x[inside]
    overall, classes = line.losses, line.class_losses
    if of == "error":
        classes = 1 - line.class_accuracies
        overall = line.pooled(classes)
    rows = []
    for subset in line.subsets():
        values = line.select(classes, subset, overall)[inside]
        rise = values - (1 - x) * values[0] - x * values[-1]
        # Exactly 0 at both ends, where rounding of the chord must not create a barrier; NaN is kept.
        rise[[0, -1]] = values[[0, -1]] - values[[0, -1]]
        known = not np.isnan(rise).any()
        top = int(np.argmax(rise))
        height, position = (float(rise[top]), float(x[top])) if known else (np.nan, np.nan)
        rows.append({**line.row(subset), "barrier": height, "position": position})
    return pd.DataFrame(rows)


@comparable
def plane_through(
    objective: Objective,
    second: Weights,
    third: Weights,
    margin: float = 0.2,
    points: int = 25,
    *,
    names: Sequence[str] | None = None,
    adaptive: float | None = None,
    **options: Unpack[LandscapeOptions],
) -> PlaneResult:
    r"""Evaluate the loss over the plane through three models (Garipov et al., NeurIPS 2018).

    The origin is w. The first axis points to the second model, :math:`u = w_2 - w`; the second axis is the component of
    :math:`w_3 - w` orthogonal to it, :math:`v = (w_3 - w) - \langle w_3 - w, u \rangle u / |u|^2`. Both are scaled to
    unit length, so distances on the plane are distances in parameter space.

    Args:
        objective: an objective, a model with ``data`` or a checkpoint; or ``{label: one of these}``, to compare them.
        second: second model, in any form that :func:`interpolate` takes.
        third: third model, in the same forms.
        margin: margin on every side of the three models, as a fraction of their extent.
        points: number of points along each axis.
        names: names of the three models, for the marks.
        adaptive: see :func:`~sharpness.plane`.
        options: see :class:`~sharpness.probes.landscapes.line_and_plane.LandscapeOptions`.

    Returns:
        A plane as from :func:`~sharpness.plane`, with the three models as marks.
        For a mapping, a :class:`~sharpness.Comparison` of such results by label.

    Raises:
        UserError: collinear models, or models that :func:`interpolate` refuses.

    >>> import torch
    >>> model, data = torch.nn.Linear(2, 1, bias=False), (torch.tensor([[3.0, 1.0]]), torch.tensor([0]))
    >>> _ = torch.nn.init.zeros_(model.weight)
    >>> objective = Objective(model, data, loss=lambda outputs, y: outputs[:, 0])
    >>> others = [{"weight": row[None]} for row in torch.eye(2)]
    >>> plane_through(objective, *others, margin=0, points=2).losses.tolist()
    [[0.0, 3.0], [1.0, 4.0]]
    """
    others = [read_subject(objective, other) for other in (second, third)]
    found = replace(model_axes(objective, *others), mark_names=_names(names, (objective, *others)))
    for other in others:
        require_reachable(objective, other)
    x, y = found.ranges(margin, points)
    return plane(objective, x, y, found, adaptive=adaptive, precision=options["precision"], resume=options["resume"])


def model_axes(objective: Objective, second: Weights, third: Weights) -> Directions:
    """Compute the orthonormal axes of the plane through three models, with the models as marks.

    Returns:
        Two unit vectors (2, k) and marks (3, 2).

    Raises:
        UserError: the models are collinear.
    """
    u, w = toward(objective, second).cpu().double(), toward(objective, third).cpu().double()
    length = float(u.norm())
    if length == 0:
        raise UserError("the second model has the same weights as the first: three different ones span a plane")
    axis = u / length
    along = float(w @ axis)
    v = w - along * axis
    v = v - (v @ axis) * axis
    across = float(v.norm())
    if across <= OFF_LINE * float(w.norm()):
        raise UserError("the three models are on one line, which is no plane: interpolate between two of them")
    vectors = [d.to(objective.dtype).to(objective.device) for d in (axis, v / across)]
    marks = np.array([[0.0, 0.0], [length, 0.0], [along, across]])
    return Directions.of(objective, vectors, "models", marks=marks)


def _names(names: Sequence[str] | None, subjects: Sequence[Any]) -> tuple[str, ...]:
    """The given names, or by default the labels of checkpoints and letters for other models."""
    if names is None:
        return tuple(
            s.label if isinstance(s, Checkpoint) else letter for s, letter in zip(subjects, "ABC", strict=False)
        )
    if len(names) != len(subjects):
        raise UserError(f"names={list(names)}: give {len(subjects)}, one for each model")
    return tuple(map(str, names))
