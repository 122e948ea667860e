"""The plane in which a training run moved most, with the path of the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from torch import Tensor

from sharpness.errors import UserError
from sharpness.objective import Objective
from sharpness.probes.directions.between_models import Weights, toward
from sharpness.probes.directions.direction_set import Directions
from sharpness.probes.directions.run_steps import snapshots
from sharpness.probes.landscapes.line_and_plane import LandscapeOptions, plane
from sharpness.probes.shared.probe import comparable
from sharpness.results import PlaneResult

#: Number of columns of the matrix of displacements that are converted to float64 at a time.
CHUNK = 1 << 20
#: Ratio of the second to the first singular value below which the second is rounding error.
FLAT = 1e-6

Steps = str | Path | Iterable[Weights] | Mapping[str, Weights]


def trajectory(objective: Objective, steps: Steps) -> Directions:
    r"""Compute the two principal directions of a training run, and its path in them.

    Following Li et al., NeurIPS 2018, section 7, the rows of :math:`D` (n, k) are :math:`w_t - w`, where w are the
    objective's weights at the end of the run. As in the paper, no mean is subtracted, so the end is at the origin. The
    directions are the first right singular vectors of D, computed from its Gram matrix (n, n), and the path is the
    projection of D on them. Signs are chosen so that the point farthest from the origin along an axis is on its
    positive side.

    Args:
        objective: objective of the final model.
        steps: a run's folder with ``snapshots/``, or the checkpoints in order: paths, models, state dicts, or ``{name:
            one of these}``. The final model is added to the path if it is not the last step.

    Returns:
        Directions named ``"trajectory"``: orthonormal vectors (2, k), marks (n, 2), ``mark_names``, and
        ``explained`` (2,), the share of :math:`\sum_t |w_t - w|^2` along each.

    Raises:
        UserError: fewer than two steps that differ from the final model, collinear steps, or a different architecture.

    >>> model, data = torch.nn.Linear(2, 1, bias=False), (torch.ones(1, 2), torch.tensor([0]))
    >>> _ = torch.nn.init.zeros_(model.weight)
    >>> objective = Objective(model, data, loss=lambda outputs, y: outputs[:, 0])
    >>> steps = [{"weight": torch.tensor([w])} for w in ([4.0, 0.0], [0.0, 3.0])]
    >>> [round(float(share), 2) for share in trajectory(objective, steps).explained]
    [0.64, 0.36]
    """
    named = _named_steps(steps)
    moves = [toward(objective, step).cpu() for step in named.values()]
    names = list(named)
    if not moves or bool(moves[-1].any()):
        names.append("end")
        moves.append(torch.zeros(objective.num_parameters, dtype=objective.dtype))
    if sum(bool(m.any()) for m in moves) < 2:
        raise UserError(f"{len(named)} steps of the run were given: two that differ from its end span a plane")
    squares, left = np.linalg.eigh(_gram(moves))
    singular = np.sqrt(np.clip(squares[::-1], 0, None))
    if singular[1] <= FLAT * singular[0]:
        raise UserError("the steps of the run are on one line, which is no plane: interpolate between two of them")
    axes = _combined(moves, torch.from_numpy(left[:, ::-1][:, :2] / singular[:2]))
    # The Gram matrix squares the condition number of D, so these vectors are only orthogonal after a factorisation.
    axes = torch.linalg.qr(axes.T).Q.T
    path = np.stack([(axes @ m.double()).numpy() for m in moves])
    signs = np.sign(path[np.abs(path).argmax(axis=0), [0, 1]])
    vectors = [(float(s) * a).to(objective.dtype).to(objective.device) for s, a in zip(signs, axes, strict=True)]
    return Directions.of(
        objective,
        vectors,
        "trajectory",
        marks=path * signs,
        mark_names=tuple(names),
        explained=(singular**2 / (singular**2).sum())[:2],
    )


@comparable
def trajectory_plane(
    objective: Objective,
    steps: Steps | Directions,
    margin: float = 0.2,
    points: int = 25,
    *,
    adaptive: float | None = None,
    **options: Unpack[LandscapeOptions],
) -> PlaneResult:
    """Evaluate the loss over the plane of a training run's principal directions, with its path as marks.

    The loss on the plane is that of ``w + x d1 + y d2``, with the final model's BatchNorm statistics unless the
    objective recalibrates them. The path itself lies near the plane only to the extent that the two directions explain
    it; this share is in the provenance (``explained``).

    Args:
        objective: objective of the final model, or that model with ``data``, or its checkpoint; or ``{label: one of
            these}``.
        steps: as :func:`trajectory` takes them, or its result.
        margin: margin on every side of the path, as a fraction of its extent.
        points: number of points along each axis.
        adaptive: see :func:`~sharpness.plane`.
        options: see :class:`~sharpness.probes.landscapes.line_and_plane.LandscapeOptions`.

    Returns:
        A plane as from :func:`~sharpness.plane`, with ``explained`` in its provenance.
        For a mapping, a :class:`~sharpness.Comparison` of such results by label.

    Raises:
        UserError: steps that :func:`trajectory` refuses.

    >>> model, data = torch.nn.Linear(2, 1, bias=False), (torch.ones(1, 2), torch.tensor([0]))
    >>> _ = torch.nn.init.zeros_(model.weight)
    >>> objective = Objective(model, data, loss=lambda outputs, y: outputs[:, 0])
    >>> steps = [{"weight": torch.tensor([w])} for w in ([4.0, 0.0], [0.0, 3.0])]
    >>> trajectory_plane(objective, steps, margin=0, points=2).losses.round(4).tolist()
    [[0.0, 4.0], [3.0, 7.0]]
    """
    found = steps.fit(objective, 2) if isinstance(steps, Directions) else trajectory(objective, steps)
    x, y = found.ranges(margin, points)
    result = plane(objective, x, y, found, adaptive=adaptive, precision=options["precision"], resume=options["resume"])
    explained = None if found.explained is None else found.explained.tolist()
    return replace(result, provenance={**result.provenance, "explained": explained})


def _named_steps(steps: Steps) -> dict[str, Weights]:
    if isinstance(steps, str | Path):
        return {path.stem: path for path in snapshots(steps)}
    if isinstance(steps, Mapping):
        return dict(steps)
    steps = list(steps)  # read several times, and Path.glob can be read once
    stems = [Path(s).stem if isinstance(s, str | Path) else "" for s in steps]
    unique = all(stems) and len(set(stems)) == len(stems)
    return dict(zip(stems if unique else map(str, range(len(stems))), steps, strict=True))


def _gram(moves: Sequence[Tensor]) -> np.ndarray:
    """Compute all inner products (n, n) in float64, one chunk of parameters at a time."""
    total = torch.zeros(len(moves), len(moves), dtype=torch.float64)
    for start in range(0, len(moves[0]), CHUNK):
        part = torch.stack([m[start : start + CHUNK] for m in moves]).double()
        total += part @ part.T
    return total.numpy()


def _combined(moves: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Combine n vectors (k,) with weights (n, d) to (d, k), in float64."""
    total = torch.zeros(weights.shape[1], len(moves[0]), dtype=torch.float64)
    for move, row in zip(moves, weights, strict=True):
        total += row[:, None] * move.double()
    return total
