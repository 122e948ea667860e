r"""Adaptive grids: evaluation where a surface bends, interpolation elsewhere.

Cells are evaluated in rounds: first a coarse lattice, then the cells with the largest estimated errors, until no
estimate is above the tolerance, and the cells with the largest remaining estimates were evaluated and found within it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy
import torch

from sharpness.engine import distributed
from sharpness.probes.landscapes.piecewise_linear import interpolate_linearly
from sharpness.probes.landscapes.polyharmonic import PolyharmonicSpline

#: Cells between two points of the first lattice, and minimum number of its points along an axis.
SPACING, LEAST = 6.25, 5
#: A round adds points up to this fraction of the evaluated ones. Their distance from each other is at least this
#: fraction of their distance to the nearest evaluated point.
GROWTH, APART = 0.25, 0.7
#: Fraction of all cells that is evaluated to verify the rest.
AUDIT = 0.01
#: Tolerance of a class, relative to that of the overall loss.
CLASS_TOLERANCE = 4.0
#: Once this fraction of all cells is evaluated, only the overall loss decides whether to continue.
CLASS_SHARE = 0.2
#: Height up to which plots show a surface, as a quantile of its values.
RELIEF = 0.9
#: Estimated errors are ``SAFETY`` times the expected size, from the ``NEARBY`` nearest points.
SAFETY, NEARBY = 3.0, 10
#: Smallest estimated error relative to the relief, for the rounding errors of interpolation.
ROUNDING = 1e-9
#: Side, in cells, of the tiles in which larger grids are interpolated, and the margin of points around them.
TILE, MARGIN = 64, 16


@dataclass(frozen=True)
class Refinement:
    """A grid of n cells, flat.

    Attributes:
        values: (n, K) evaluated or interpolated values.
        errors: (n, K) estimated absolute errors; 0 where evaluated, NaN for a column without values.
        evaluated: (n,) mask of evaluated cells.
    """

    values: np.ndarray
    errors: np.ndarray
    evaluated: np.ndarray


def refine(
    evaluate: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...], tol: float, criteria: int
) -> Refinement:
    r"""Compute values on a grid: evaluated where the surface bends, interpolated elsewhere.

    Let m be a column's minimum and R its relief, from m to its 0.9 quantile over finite cells (the range that plots
    show). The first column should be within :math:`\mathrm{tol}\,\max(R, v - m)` of its value v in every cell, and the
    other criteria within four times that, until a fifth of the cells is evaluated: a class of few images has kinks that
    the overall loss averages out, and saturated classes are flat with steep walls. Beyond that, the errors of these
    criteria are only estimated. ``benchmarks/adaptive.py`` measures the number of evaluations.

    Interpolation is a cubic polyharmonic spline with quadratic polynomials, in v or in :math:`\sinh^{-1}((v - m)/R)`
    (for surfaces that explode at the corners), whichever has the smaller leave-one-out residuals. The error of a cell
    is estimated as its power function times the root mean square of the standardised leave-one-out residuals nearby,
    times 3. On the planes of that benchmark, the estimate was above the true error in at least 95 % of the interpolated
    cells of every column, and in 97 % for the overall loss; kinks are the worst case (93 % on a cone).

    Columns beyond the criteria are fractions, such as accuracies, which are step functions: they are interpolated
    linearly between evaluated points, and their error is estimated as the spread of the points nearby.

    A cell next to one that is not finite (in any column that has values) is evaluated itself.

    Args:
        evaluate: function from cells (m,), numbered row by row, to rows (m, K). It is called once per round, and never
            twice for a cell.
        shape: (ny, nx).
        tol: tolerance as a fraction of the relief.
        criteria: number of columns, from the first, that decide which cells are evaluated; a column that is NaN
            everywhere is ignored.

    >>> x = np.linspace(-1, 1, 51)
    >>> bowl = (x**2 + x[:, None] ** 2).reshape(-1, 1)
    >>> found = refine(lambda cells: bowl[cells], (51, 51), tol=0.01, criteria=1)
    >>> bool(np.abs(found.values - bowl).max() < 1e-9), bool(found.evaluated.mean() < 0.05)
    (True, True)
    """
    surface = _Surface(shape, tol, criteria)
    chosen = _lattice(shape)
    while chosen.any():
        cells = np.flatnonzero(chosen)
        surface.add(cells, np.asarray(evaluate(cells), dtype=float))
        chosen = _agreed(surface.next())
    return surface.result()


class _Surface:
    """A surface under refinement: its values, errors and evaluated cells.

    Attributes:
        done: (n,) mask of evaluated cells.
        finite: (n,) mask of evaluated cells without inf or NaN in a column that has values.
        counting: (S,) criteria that have values.
        ratio: (n,) largest ratio of estimated to tolerated error over criteria; 0 where evaluated.
    """

    def __init__(self, shape: tuple[int, ...], tol: float, criteria: int) -> None:
        self.shape, self.criteria = shape, criteria
        self.tol = np.where(np.arange(criteria) == 0, tol, CLASS_TOLERANCE * tol)
        axes = [np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape]
        self.points = np.stack([c.ravel() for c in np.meshgrid(*axes, indexing="ij")], axis=1)
        size = len(self.points)
        self.done, self.finite = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
        self.ratio = np.full(size, np.inf)
        self.errors = np.full((size, criteria), np.inf)
        self.counting = np.arange(criteria)
        self._auditing = self._refuted = False

    def add(self, cells: np.ndarray, rows: np.ndarray) -> None:
        """Add new rows (m, K), and repeat the interpolation of the other cells."""
        if not self.done.any():
            self.values = np.full((len(self.done), rows.shape[1]), np.nan)
        elif self.finite.any():
            missed = np.abs(rows - self.values[cells])[:, self.counting] / self._tolerated(cells)
            missed = missed[np.isfinite(missed).all(axis=1)][:, self._deciding()]
            self._refuted = bool((missed > 1).any())
        self.values[cells], self.errors[cells], self.done[cells] = rows, 0.0, True
        known = self.values[self.done]
        self.present = ~np.isnan(known).all(axis=0)
        self.counting = np.flatnonzero(self.present[: self.criteria])
        self.finite = np.zeros(len(self.done), dtype=bool)
        self.finite[self.done] = np.isfinite(known[:, self.present]).all(axis=1) & self.present[0]
        self._interpolate()

    def next(self) -> np.ndarray:
        """The mask (n,) of cells to evaluate next; empty if all cells are within the tolerance."""
        infinite = (self.done & ~self.finite).reshape(self.shape)
        beside = scipy.ndimage.binary_dilation(infinite, np.ones((3, 3))).ravel() & ~self.done
        if not self.finite.any():
            return ~self.done
        candidates = (self.ratio > 1) & ~beside
        limit = max(8, int(GROWTH * self.done.sum()))
        if not candidates.any() and not beside.any():
            if self._auditing and not self._refuted:
                return candidates
            self._auditing = True
            return self._spread(~self.done, max(4, int(AUDIT * len(self.done))))
        self._auditing = False
        return beside | self._spread(candidates, limit)

    def result(self) -> Refinement:
        errors = np.full_like(self.values, np.nan)
        errors[:, : self.criteria] = np.where(self.present[: self.criteria], self.errors, np.nan)
        fractions = np.flatnonzero(self.present[self.criteria :]) + self.criteria
        errors[:, fractions] = 0.0
        rest = np.flatnonzero(~self.done)
        if len(rest) and len(fractions):
            known = np.flatnonzero(self.done & np.isfinite(self.values[:, fractions]).all(axis=1))
            found = interpolate_linearly(self.points[known], self.values[np.ix_(known, fractions)], self.points[rest])
            self.values[np.ix_(rest, fractions)], errors[np.ix_(rest, fractions)] = found
        return Refinement(self.values, errors, self.done)

    def _tolerated(self, cells: np.ndarray) -> np.ndarray:
        height = self.values[cells][:, self.counting] - self.low
        return self.tol[self.counting] * np.maximum(self.relief, height)

    def _deciding(self) -> slice:
        """The counting criteria that decide which cells are evaluated."""
        return slice(None) if self.done.mean() < CLASS_SHARE else slice(1)

    def _interpolate(self) -> None:
        rest = np.flatnonzero(~self.done)
        self.ratio[self.done] = 0.0
        if not self.finite.any() or not len(rest):
            return
        self._measure(self.finite)
        for core, reach in _tiles(self.shape):
            self._interpolate_tile(np.flatnonzero(core & ~self.done), np.flatnonzero(reach & self.finite))
        self._measure(self.finite | ~self.done)
        ratios = self.errors[rest][:, self.counting] / self._tolerated(rest)
        worst = ratios[:, self._deciding()].max(axis=1)
        self.ratio[rest] = np.where(np.isnan(worst), np.inf, worst)

    def _measure(self, cells: np.ndarray) -> None:
        """Set minimum and relief of every criterion, (S,)."""
        values = self.values[cells][:, self.counting]
        values = values[np.isfinite(values).all(axis=1)]
        self.low = values.min(axis=0)
        rounding = np.finfo(float).eps * np.maximum(np.abs(values).max(axis=0), np.finfo(float).tiny / ROUNDING)
        self.relief = np.maximum(np.quantile(values, RELIEF, axis=0) - self.low, rounding)

    def _interpolate_tile(self, cells: np.ndarray, centers: np.ndarray) -> None:
        if not len(cells) or not len(centers):
            return
        spline = PolyharmonicSpline(self.points[centers])
        height = (self.values[centers][:, self.counting] - self.low) / self.relief
        plain, power = spline(self.points[cells], height)
        curved, _ = spline(self.points[cells], np.arcsinh(height))
        curved = np.sinh(curved.clip(-700, 700))
        near = scipy.spatial.cKDTree(self.points[centers]).query(self.points[cells], k=min(NEARBY, len(centers)))[1]
        near = near.reshape(len(cells), -1)
        scores, errors = [], []
        slopes = np.sqrt(1 + height**2), np.sqrt(1 + curved**2)
        for values, steep, steep_there in (height, 1.0, 1.0), (np.arcsinh(height), *slopes):
            missed, standardised = spline.standardised_residuals(values)
            scores.append(np.square(missed * steep / np.maximum(1, height)).mean(axis=0))
            scale = np.sqrt(np.square(standardised)[near].mean(axis=1))
            errors.append(SAFETY * scale * power[:, None] * steep_there)
        better = scores[1] < scores[0]
        found = np.where(better, curved, plain)
        error = np.where(better, errors[1], errors[0]) + ROUNDING * np.maximum(1, found)
        if len(centers) < 2 * spline.rank:
            error[:] = np.inf
        self.values[np.ix_(cells, self.counting)] = self.low + self.relief * found
        self.errors[np.ix_(cells, self.counting)] = self.relief * error

    def _spread(self, candidates: np.ndarray, limit: int) -> np.ndarray:
        """Select the worst of some cells, no two of them close to each other."""
        distance = scipy.spatial.cKDTree(self.points[self.done]).query(self.points)[0]
        free, chosen = candidates.reshape(self.shape).copy(), np.zeros(len(self.done), dtype=bool)
        order = np.flatnonzero(candidates)
        for cell in order[np.argsort(-self.ratio[order], kind="stable")]:
            y, x = divmod(int(cell), self.shape[1])
            if free[y, x]:
                chosen[cell] = True
                dy, dx = (int(APART * distance[cell] * (n - 1) / 2) for n in self.shape)
                free[max(0, y - dy) : y + dy + 1, max(0, x - dx) : x + dx + 1] = False
                limit -= 1
            if limit == 0:
                break
        return chosen


def _lattice(shape: tuple[int, ...]) -> np.ndarray:
    """The mask (n,) of the first cells: a coarse grid with borders and middle, or all if it has half of all cells."""
    mask = np.zeros(shape, dtype=bool)
    mask[np.ix_(*(_coarse(n) for n in shape))] = True
    return np.ones(mask.size, dtype=bool) if 2 * mask.sum() >= mask.size else mask.ravel()


def _coarse(number: int) -> np.ndarray:
    steps = max(LEAST - 1, int(np.ceil((number - 1) / SPACING)))
    return np.unique(np.round(np.linspace(0, number - 1, steps + steps % 2 + 1)).astype(int))


def _tiles(shape: tuple[int, ...]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Masks (n,) of the cells of every tile, without and with its margin."""
    starts = [np.arange(0, n, TILE) for n in shape]
    for y in starts[0]:
        for x in starts[1]:
            core, reach = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
            core[y : y + TILE, x : x + TILE] = True
            reach[max(0, y - MARGIN) : y + TILE + MARGIN, max(0, x - MARGIN) : x + TILE + MARGIN] = True
            yield core.ravel(), reach.ravel()


def _agreed(mask: np.ndarray) -> np.ndarray:
    """Return the first process's mask in all processes, which may round differently but must agree on the cells."""
    mine = mask if distributed.rank() == 0 else np.zeros_like(mask)
    return distributed.total(torch.from_numpy(mine.astype(np.float64))).numpy() > 0
