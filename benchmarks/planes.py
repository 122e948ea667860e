"""A plane of every class, ours and others': a section of the benchmark of answers.

seconds       of the whole plane, all classes together; CPU: of all threads
times ours    of the first row
evaluated     points, of all
error         largest, of a few points drawn at random, overall, relative to max(relief, height), from the module in
              float64; a library that draws directions of its own has no such points
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from contenders import now
from table import table
from torch import Tensor
from torch.nn import functional as F
from turns import process
from workloads import Problem, flat, like_filters

import sharpness

#: Title of the section.
PLANES = "{side} x {side} plane of every class"
TOLERANCE = 0.01
SPAN = 0.5
#: Points that are compared with float64.
CHECKED = 16


@dataclass(frozen=True)
class Drawn:
    """Seconds by the clock and of all threads, the overall loss (side, side) or None, and points evaluated."""

    seconds: np.ndarray
    losses: np.ndarray | None
    evaluated: int


def ours(problem: Problem, side: int, **settings: object) -> Drawn:
    model, x, y = problem
    span, directions = (-SPAN, SPAN, side), _directions(problem)
    start = now()
    objective = sharpness.Objective(model, (x, y), num_classes=10)
    found = sharpness.plane(objective, span, span, directions, **settings)  # type: ignore[arg-type]
    seconds = now() - start
    return Drawn(seconds, found.losses, int(found.evaluated.sum()))


def loss_landscapes(problem: Problem, side: int) -> Drawn:
    """Its random plane, with the loss of every class from one pass over all images."""
    from loss_landscapes import random_plane
    from loss_landscapes.metrics.metric import Metric

    model, x, y = problem
    classes, index = y.unique(return_inverse=True)

    class ClassLosses(Metric):  # type: ignore[misc, no-any-unimported]
        def __call__(self, wrapper: Callable[..., Tensor]) -> np.ndarray:
            losses = F.cross_entropy(wrapper.forward(x), y, reduction="none")  # type: ignore[attr-defined]
            sums = torch.zeros(len(classes)).index_add_(0, index, losses.detach())
            return (sums / index.bincount()).numpy()

    start = now()
    with torch.no_grad():
        random_plane(copy.deepcopy(model), ClassLosses(), steps=side)
    return Drawn(now() - start, None, side**2)


def plain_loop(problem: Problem, side: int) -> Drawn:
    """Weights written in place, one pass over all images a point."""
    model, x, y = copy.deepcopy(problem[0]), *problem[1:]
    start = now()
    centre, (one, other) = [p.detach().clone() for p in model.parameters()], _pieces(problem)
    axis, losses = np.linspace(-SPAN, SPAN, side), np.zeros((side, side))
    with torch.no_grad():
        for j, b in enumerate(axis):
            for i, a in enumerate(axis):
                for p, w, d, e in zip(model.parameters(), centre, one, other, strict=True):
                    p.copy_(w + a * d + b * e)
                losses[j, i] = float(F.cross_entropy(model(x), y))
    return Drawn(now() - start, losses, side**2)


CONTENDERS: dict[str, Callable[[Problem, int], Drawn]] = {
    f"sharpness, adaptive={TOLERANCE}": lambda *of: ours(*of, adaptive=TOLERANCE),
    f"sharpness, adaptive={TOLERANCE}, float32": lambda *of: ours(*of, adaptive=TOLERANCE, precision="float32"),
    "sharpness, every point, float32": lambda *of: ours(*of, precision="float32"),
    "plain loop": plain_loop,
    "loss-landscapes": loss_landscapes,
}


def planes(problem: Problem, path: Path, side: int, repeats: int, leave_out: Sequence[str]) -> list[str]:
    """The table of one grid."""
    names = [n for n in CONTENDERS if n not in leave_out]
    with ExitStack() as stack:
        processes = {n: stack.enter_context(process(_prepare, path)) for n in names}
        turns = [{n: p.submit(_draw, n, side).result() for n, p in processes.items()} for _ in range(repeats)]
    middle = {n: np.median([turn[n].seconds for turn in turns], axis=0) for n in names}
    first = middle[names[0]]
    rows = [
        [
            n,
            *(f"{value:.1f}" for value in middle[n]),
            *(f"{value:.1f}" for value in middle[n] / first),
            f"{turns[0][n].evaluated} of {side**2}",
            _error(problem, turns[0][n].losses),
        ]
        for n in names
    ]
    return table(["", "seconds", "CPU", "times ours", "CPU", "evaluated", "error"], rows)


def _error(problem: Problem, losses: np.ndarray | None) -> str:
    """From the module in float64, at points drawn at random."""
    if losses is None:
        return "–"
    model, x, y = copy.deepcopy(problem[0]).double(), problem[1].double(), problem[2]
    centre, (one, other) = [p.detach().clone() for p in model.parameters()], _pieces(problem)
    side, off = len(losses), 0.0
    axis = np.linspace(-SPAN, SPAN, side)
    with torch.no_grad():
        for cell in np.random.default_rng(0).choice(side**2, CHECKED, replace=False):
            j, i = divmod(int(cell), side)
            for p, w, d, e in zip(model.parameters(), centre, one, other, strict=True):
                p.copy_(w + axis[i] * d + axis[j] * e)
            exact = float(F.cross_entropy(model(x), y))
            off = max(off, abs(losses[j, i] - exact) / max(float(np.ptp(losses)), exact))
    return f"{off:.1e}"


def _directions(problem: Problem) -> list[Tensor]:
    return [flat(pieces) for pieces in _pieces(problem)]


def _pieces(problem: Problem) -> list[list[Tensor]]:
    """Two Gaussian directions whose filters are as long as those of the network."""
    generator = torch.Generator().manual_seed(0)
    return [[like_filters(p.detach(), generator) for p in problem[0].parameters()] for _ in range(2)]


_problem: Problem  # of a contender's process


def _prepare(path: Path) -> None:
    global _problem
    importlib.import_module("sharpness.probes")
    _problem = torch.load(path, weights_only=False)


def _draw(name: str, side: int) -> Drawn:
    return CONTENDERS[name](_problem, side)
