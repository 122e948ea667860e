"""The loss along a line and over a plane through a model; class losses come from the same forward passes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sharpness.errors import UserError
from sharpness.objective import Objective
from sharpness.probes.comparison import common_fields, comparable
from sharpness.probes.directions import check_direction, gaussian, gaussian_pair
from sharpness.probes.eigenvalues import eigenvalues
from sharpness.progress import progress
from sharpness.results import LineResult, PlaneResult

#: From, to, number of points.
Range = tuple[float, float, int]


@comparable
def line(
    objective: Objective,
    x: Range = (-1, 1, 51),
    directions: Tensor | str | None = None,
    normalization: str | None = "filter",
    seed: int = 0,
) -> LineResult:
    """``L(w + x d)`` and ``L_c(w + x d)`` at evenly spaced x.

    Args:
        objective: or ``{label: objective}``, to compare along the same direction.
        x: from, to, number of points; both ends included.
        directions: None for a Gaussian direction; ``"gradient"`` (unit length); ``"hessian"``, the top eigenvector
            (unit length); or a flat vector (k,), taken as it is.
        normalization: ``"filter"``, ``"layer"`` or None, of Gaussian directions.

    Raises:
        UserError: an empty range, an unknown direction, or a vector of another length.
    """
    grid = _grid("x", x)
    objective.check()
    if directions is None:
        name, vector = "gaussian", gaussian(objective, 0, seed, normalization)
    elif isinstance(directions, str):
        name, vector = directions, _named(objective, directions, 1, seed)[0]
    else:
        name, vector = "given", check_direction(objective, directions)
    losses, class_losses, accuracies = _evaluate(objective, grid[:, None], [vector], "line")
    return LineResult(
        x=grid,
        losses=losses,
        class_losses=class_losses,
        class_accuracies=accuracies,
        directions=name,
        normalization=normalization if directions is None else None,
        seed=seed,
        **common_fields(objective, probe="line", evaluations=len(grid)),
    )


@comparable
def plane(
    objective: Objective,
    x: Range = (-1, 1, 51),
    y: Range = (-1, 1, 51),
    directions: Sequence[Tensor] | str | None = None,
    normalization: str | None = "filter",
    seed: int = 0,
) -> PlaneResult:
    """``L(w + x_i d1 + y_j d2)`` in cell [j, i], and the same per class.

    Args:
        objective: or ``{label: objective}``, to compare over the same directions.
        x: from, to, number of points along the first direction; both ends included.
        y: the same along the second.
        directions: None for two orthogonal Gaussian ones; ``"hessian"``, the two top eigenvectors (unit length);
            or two flat vectors (k,), taken as they are.
        normalization: ``"filter"``, ``"layer"`` or None, of Gaussian directions.

    Raises:
        UserError: an empty range, an unknown direction, or vectors of another length.
    """
    grid_x, grid_y = _grid("x", x), _grid("y", y)
    objective.check()
    if directions is None:
        name, vectors = "gaussian", list(gaussian_pair(objective, seed, normalization))
    elif isinstance(directions, str):
        name, vectors = directions, _named(objective, directions, 2, seed)
    elif len(directions) == 2:
        name, vectors = "given", [check_direction(objective, d) for d in directions]
    else:
        raise UserError(f"{len(directions)} directions were given: a plane needs two")
    points = np.stack([c.ravel() for c in np.meshgrid(grid_x, grid_y)], axis=1)
    losses, class_losses, accuracies = _evaluate(objective, points, vectors, "plane")
    shape = (len(grid_y), len(grid_x))
    return PlaneResult(
        x=grid_x,
        y=grid_y,
        losses=losses.reshape(shape),
        class_losses=class_losses.reshape(-1, *shape),
        class_accuracies=accuracies.reshape(-1, *shape),
        directions=name,
        normalization=normalization if directions is None else None,
        seed=seed,
        **common_fields(objective, probe="plane", evaluations=len(points)),
    )


def _grid(name: str, spec: Range) -> np.ndarray:
    try:
        start, stop, number = float(spec[0]), float(spec[1]), int(spec[2])
        valid = len(spec) == 3 and np.isfinite([start, stop]).all() and number >= 1 and number == spec[2]
    except (TypeError, ValueError, IndexError):
        valid = False
    if not valid:
        raise UserError(f"{name}={spec!r}: give (from, to, number of points), such as (-1, 1, 51)")
    return np.linspace(start, stop, number)


def _named(objective: Objective, name: str, number: int, seed: int) -> list[Tensor]:
    """Unit vectors that the loss itself suggests."""
    if name == "hessian":
        vectors = eigenvalues(objective, k=number, seed=seed).vectors
        return [torch.as_tensor(v, device=objective.device) for v in vectors]
    if name == "gradient" and number == 1:
        gradient = objective.gradient()
        return [gradient / gradient.norm()]
    known = "'hessian'" + (", 'gradient'" if number == 1 else "")
    raise UserError(f"unknown directions {name!r}: choose {known}, vectors, or None for Gaussian ones")


def _evaluate(
    objective: Objective, points: np.ndarray, directions: Sequence[Tensor], what: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Losses (n,), class losses (C, n) and class accuracies (C, n) at ``w + sum_j points[:, j] d_j``."""
    losses = np.full(len(points), np.nan)
    class_losses = np.full((objective.num_classes, len(points)), np.nan)
    accuracies = class_losses.copy()
    with progress(len(points), what, "points") as bar:
        for i, point in enumerate(points):
            displacement = sum(float(t) * d for t, d in zip(point, directions, strict=True))
            with objective.at(displacement):  # type: ignore[arg-type]
                sums = objective.evaluate()
            losses[i], class_losses[:, i], accuracies[:, i] = (
                sums.mean,
                sums.class_means,
                sums.class_accuracies,
            )
            bar.update()
    return losses, class_losses, accuracies
