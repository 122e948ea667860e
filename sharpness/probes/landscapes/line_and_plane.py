"""The loss along a line and over a plane through a model; class losses come from the same forward passes."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Unpack

import numpy as np
import torch
from torch import Tensor

from sharpness.engine.class_sums import ClassSums
from sharpness.errors import UserError
from sharpness.keywords import Default
from sharpness.objective import Objective
from sharpness.probes.directions.direction_set import Directions
from sharpness.probes.landscapes.adaptive_grid import Refinement, refine
from sharpness.probes.landscapes.named_directions import named_directions
from sharpness.probes.landscapes.precision import landscape_precision, pays, spread_points, stands_out
from sharpness.probes.shared.comparison import common_fields
from sharpness.probes.shared.point_table import PointTable
from sharpness.probes.shared.probe import Given, comparable
from sharpness.probes.shared.work import Resume
from sharpness.results import LineResult, PlaneResult

#: From, to, number of points.
Range = tuple[float, float, int]
#: Coordinates below this fraction of the range are set to 0, the centre.
ROUNDING = 1e-12
logger = logging.getLogger("sharpness")


class LandscapeOptions(Given, total=False):
    """Keywords of landscapes.

    Attributes:
        precision: precision of forward passes: ``"float32"``, ``"bfloat16"``, or ``"auto"``. With ``"auto"``, bfloat16
            is used on hardware with support for it if timed passes show that it is faster. Both are compared at nine
            points (three for a line), and float32 is used unless the relief of the surface, and of every class, is 100
            times as large as the error, and the tolerance of ``adaptive`` 10 times. The error at the centre is in the
            result.
        resume: folder for finished points; a call with the same settings resumes from them.
    """

    precision: Annotated[str, Default("auto")]
    resume: Resume


class SharedLandscapeOptions(LandscapeOptions, total=False):
    """Keywords of landscapes whose points may be shared.

    Attributes:
        executor: executor that evaluates blocks of points, see :func:`sharpness.cluster`; by default this process does.
    """

    executor: Executor | None


@comparable
def line(
    objective: Objective,
    x: Range = (-1, 1, 51),
    directions: Tensor | str | Directions | None = None,
    normalization: str | None = "filter",
    seed: int = 0,
    **options: Unpack[SharedLandscapeOptions],
) -> LineResult:
    """Evaluate the loss along a line through the model, ``L(w + x d)`` and every ``L_c(w + x d)``, at evenly spaced x.

    Args:
        objective: an objective, a model with ``data`` or a checkpoint; or ``{label: one of these}``, to compare them.
        x: from, to, number of points; both ends included.
        directions: None for a Gaussian direction; ``"gradient"`` (unit length); ``"hessian"``, the top eigenvector
            (unit length); a flat vector (k,), used without normalisation; or a
            :class:`~sharpness.probes.directions.direction_set.Directions`.
        normalization: normalisation of Gaussian directions: ``"filter"``, ``"layer"`` or None.
        seed: seed of Gaussian directions, and of the start of the eigenvalue iteration.
        options: see :class:`SharedLandscapeOptions`.

    Returns:
        Losses (n,), and class losses and accuracies (C, n), at the positions x.
        For a mapping, a :class:`~sharpness.Comparison` of such results by label.

    Raises:
        UserError: an empty range, an unknown direction, or a vector of the wrong length.

    The loss :math:`3 w_1` at w = 0 along (1, 0):

    >>> model, data = torch.nn.Linear(2, 1, bias=False), (torch.tensor([[3.0, 0.0]]), torch.tensor([0]))
    >>> _ = torch.nn.init.zeros_(model.weight)
    >>> objective = Objective(model, data, loss=lambda outputs, y: outputs[:, 0])
    >>> line(objective, (-1, 1, 3), torch.tensor([1.0, 0.0])).losses.tolist()
    [-3.0, 0.0, 3.0]
    """
    grid, base = _grid("x", x), objective.check()
    found = named_directions(objective, directions, 1, seed, normalization)
    values = _evaluate(objective, base, found, grid[:, None], grid.shape, options)
    return LineResult(x=grid, **values, **common_fields(objective, probe="line", evaluations=len(grid)))


@comparable
def plane(
    objective: Objective,
    x: Range = (-1, 1, 51),
    y: Range = (-1, 1, 51),
    directions: Sequence[Tensor | str] | str | Directions | None = None,
    normalization: str | None = "filter",
    seed: int = 0,
    *,
    adaptive: float | None = None,
    **options: Unpack[SharedLandscapeOptions],
) -> PlaneResult:
    """Evaluate the loss over a plane through the model, ``L(w + x_i d1 + y_j d2)`` in cell [j, i], and per class.

    Args:
        objective: an objective, a model with ``data`` or a checkpoint; or ``{label: one of these}``, to compare them.
        x: from, to, number of points along the first direction; both ends included.
        y: the same along the second.
        directions: None for two orthogonal Gaussian directions; ``"hessian"``, the two top eigenvectors (unit length);
            two flat vectors (k,), used without normalisation; two names joined by a plus, such as
            ``"gradient+hessian"``; or a :class:`~sharpness.probes.directions.direction_set.Directions`. See
            :func:`~sharpness.probes.landscapes.named_directions.named_directions`.
        normalization: normalisation of Gaussian directions: ``"filter"``, ``"layer"`` or None.
        seed: seed of Gaussian directions, and of the start of the eigenvalue iteration.
        adaptive: tolerance for evaluating points only where the surface bends and interpolating the rest, as a fraction
            of the relief, such as 0.01: see :func:`~sharpness.probes.landscapes.adaptive_grid.refine`. None evaluates
            every point.
        options: see :class:`SharedLandscapeOptions`.

    Returns:
        Losses (ny, nx), class losses and accuracies (C, ny, nx), their interpolation errors, and a mask of the points
        that were evaluated.
        For a mapping, a :class:`~sharpness.Comparison` of such results by label.

    Raises:
        UserError: an empty range, an unknown direction, or vectors of the wrong length.

    The loss :math:`3 w_1 + w_2` around w = 0, over both axes:

    >>> model, data = torch.nn.Linear(2, 1, bias=False), (torch.tensor([[3.0, 1.0]]), torch.tensor([0]))
    >>> _ = torch.nn.init.zeros_(model.weight)
    >>> objective = Objective(model, data, loss=lambda outputs, y: outputs[:, 0])
    >>> plane(objective, (-1, 1, 3), (0, 1, 2), directions=list(torch.eye(2))).losses.tolist()
    [[-3.0, 0.0, 3.0], [-2.0, 1.0, 4.0]]
    """
    grid_x, grid_y = _grid("x", x), _grid("y", y)
    if adaptive is not None and not 0 < adaptive < 1:
        raise UserError(f"adaptive={adaptive!r}: give a part of the relief between 0 and 1, such as 0.01")
    base = objective.check()
    found = named_directions(objective, directions, 2, seed, normalization)
    points = np.stack([c.ravel() for c in np.meshgrid(grid_x, grid_y)], axis=1)
    values = _evaluate(objective, base, found, points, (len(grid_y), len(grid_x)), options, adaptive)
    evaluations = int(values["evaluated"].sum())  # interpolated points cost nothing
    fields = common_fields(objective, probe="plane", evaluations=evaluations, adaptive=adaptive)
    return PlaneResult(x=grid_x, y=grid_y, **values, **fields)


def _grid(name: str, spec: Range) -> np.ndarray:
    try:
        start, stop, number = float(spec[0]), float(spec[1]), int(spec[2])
        valid = len(spec) == 3 and np.isfinite([start, stop]).all() and number >= 1 and number == spec[2]
    except (TypeError, ValueError, IndexError):
        valid = False
    if not valid:
        raise UserError(f"{name}={spec!r}: give (from, to, number of points), such as (-1, 1, 51)")
    grid = np.linspace(start, stop, number)
    return np.where(np.abs(grid) < ROUNDING * max(abs(start), abs(stop)), 0.0, grid)


def _evaluate(
    objective: Objective,
    base: ClassSums,
    directions: Directions,
    points: np.ndarray,
    shape: tuple[int, ...],
    options: SharedLandscapeOptions,
    adaptive: float | None = None,
) -> dict[str, Any]:
    """Compute the fields of a landscape at ``w + sum_j points[:, j] d_j``, in arrays of a shape; ``base`` is at w."""
    what, own, vectors = ("line", "plane")[len(shape) - 1], objective.precision, directions.vectors
    # The key depends on the displacements, so that saved points are found however the directions are named.
    digest = hashlib.sha256(points.tobytes())
    digest.update(vectors.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    table_in = partial(
        PointTable, objective, _Displacement(points, vectors), len(points), what, folder=options["resume"],
        settings={"displacements": digest.hexdigest()}, executor=options["executor"],
    )  # fmt: skip
    chosen = landscape_precision(objective, options["precision"], len(points))
    table = table_in(precision=chosen)
    center = np.array([base.mean, *base.class_means, *base.class_accuracies])
    losses = 1 + objective.num_classes
    if options["precision"] == "auto" and chosen != own:
        exact = table_in(precision=own)
        some = spread_points(shape)
        # Unfinished work keeps its precision even if the other one is faster now, instead of starting again.
        begun = table.done.any() or exact.done.any()
        worthwhile = table.done.any() if begun else pays(table.seconds, exact.seconds, len(points), len(some), adaptive)
        if not worthwhile:
            table, chosen = exact, own
        elif not stands_out(table.evaluate(some)[:, :losses], exact.evaluate(some)[:, :losses], adaptive):
            logger.info("%s: its relief is too small for %s, it is taken in %s", what, chosen, own)
            table, chosen = exact, own
    if chosen == own:
        table.fill(np.flatnonzero((points == 0).all(axis=1)), center)
    if adaptive is None:
        table.evaluate()
        found = Refinement(table.rows, np.zeros_like(table.rows), table.done)
    else:
        with table.rounds():
            found = refine(table.evaluate, (shape[0], shape[1]), adaptive, losses)
    error = np.abs(table.center - center)[:losses] if chosen != own else 0.0 * center[:losses]
    if objective.loss_name == "ce":  # interpolation may be slightly negative, cross-entropy is not
        found.values[:, :losses] = np.maximum(found.values[:, :losses], 0.0)
    rows, errors = found.values.T.reshape(-1, *shape), found.errors.T.reshape(-1, *shape)
    return {
        "directions": directions.name,
        "normalization": directions.normalization,
        "seed": directions.seed,
        "marks": directions.marks,
        "mark_names": directions.mark_names,
        "losses": rows[0],
        "class_losses": rows[1:losses],
        "class_accuracies": rows[losses:],
        "interpolation_errors": errors[0],
        "class_interpolation_errors": errors[1:losses],
        "class_accuracy_interpolation_errors": errors[losses:],
        "evaluated": found.evaluated.reshape(shape),
        "base_loss": base.mean,
        "base_class_losses": base.class_means,
        "precision": chosen,
        "precision_error": float(error[0]),
        "class_precision_errors": error[1:],
    }


@dataclass(frozen=True)
class _Displacement:
    """The displacement ``sum_j points[i, j] d_j`` of a point i."""

    points: np.ndarray
    directions: Tensor

    def __call__(self, i: int) -> Tensor:
        first, *others = (float(t) * d for t, d in zip(self.points[i], self.directions, strict=True))
        return sum(others, first)
