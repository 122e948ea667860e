r"""Quadrature rules of a spectral measure, and its density, mass and moments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sharpness.errors import UserError
from sharpness.statistics.estimate import interval, mean_and_error

#: The default grid: spacing, and reach to either side of a node, in widths.
_SPACING, _REACH = 0.5, 8


@dataclass(frozen=True)
class DensityCurve:
    """A spectral density of total mass 1 (times ``size``: eigenvalues per unit), smoothed with a Gaussian."""

    grid: np.ndarray  # (g,)
    density: np.ndarray  # (g,)
    lower: np.ndarray  # (g,)  95 % band of the mean over runs, pointwise; not below 0
    upper: np.ndarray  # (g,)
    width: float  # standard deviation of the Gaussian, in units of the eigenvalues


@dataclass(frozen=True)
class SpectralQuadrature:
    r"""Rules r with nodes and weights such that :math:`\mathrm{tr} f(A) / n \approx \sum_i w_{ri} f(\theta_{ri})`.

    All methods compute from these numbers alone: no product is made. Values come with the standard error of the mean
    over runs, NaN if there is only one.

    >>> rule = SpectralQuadrature(np.array([[0.0, 2.0], [0.0, 2.0]]), np.array([[0.7, 0.3], [0.9, 0.1]]), 10, 4)
    >>> print("%.1f +- %.1f" % rule.mass(1, 3), "%.1f +- %.1f" % rule.moment(2), rule.mass(-np.inf, np.inf))
    0.2 +- 0.1 0.8 +- 0.4 (1.0, 0.0)
    """

    nodes: np.ndarray  # (runs, steps), NaN where a Krylov space was exhausted
    weights: np.ndarray  # (runs, steps), rows sum to 1 to rounding; 0 where the node is NaN
    size: int  # n
    products: int

    def moment(self, p: int) -> tuple[float, float]:
        """Mean of the p-th power of the eigenvalues, and its standard error; ``size`` times moment(1) is the trace.

        Unbiased for p < 2 steps.
        """
        if p < 0:
            raise UserError(f"p={p}: moments of a spectrum that may contain 0 have p >= 0")
        powers = np.where(np.isnan(self.nodes), 0, self.nodes) ** p
        value, error = mean_and_error((self.weights * powers).sum(axis=1))
        return float(value), float(error)

    def mass(self, low: float, high: float) -> tuple[float, float]:
        """Fraction of the eigenvalues in (low, high], and its standard error. All mass is 1.0 exactly.

        From the weights, without smoothing. An interval end inside a continuous part of the spectrum cuts between
        nodes: there the fraction is exact only to about a node's weight.
        """
        fraction, error = self._fractions((self.nodes > low) & (self.nodes <= high))
        return float(fraction), float(error)

    def cumulative(self, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fractions (g,) of the eigenvalues up to every point of the grid, and their standard errors (g,)."""
        pairs = [self._fractions(self.nodes <= x) for x in np.asarray(grid, dtype=float)]
        return np.array([value for value, _ in pairs]), np.array([error for _, error in pairs])

    def density(self, grid: np.ndarray | None = None, width: float | None = None) -> DensityCurve:
        r"""The density :math:`\frac1R \sum_r \sum_i w_{ri} N(x; \theta_{ri}, \text{width}^2)`, of total mass 1.

        Args:
            grid: ascending points (g,). By default those multiples of half a width that are within 8 widths of a node,
                which carry all mass: the trapezoidal rule over them gives 1.
            width: standard deviation of the Gaussian, in units of the eigenvalues. By default the range of the nodes
                over the number of steps, their mean distance, which smooths a continuous part of the spectrum and keeps
                outliers apart. For an operator with one eigenvalue it is a hundredth of its modulus, and for the zero
                operator 1.
        """
        filled = ~np.isnan(self.nodes)
        if width is None:
            low, high = np.nanmin(self.nodes), np.nanmax(self.nodes)
            largest = max(abs(low), abs(high))
            spread = (high - low) / self.nodes.shape[1]
            # Rounding of a single eigenvalue is no spread.
            width = float(spread if spread > 1e-6 * largest else 0.01 * largest) or 1.0
        if not width > 0:
            raise UserError(f"width={width}: give the positive standard deviation of a Gaussian")
        if grid is None:
            spacing = _SPACING * width
            near = np.unique(np.round(self.nodes[filled] / spacing))
            offsets = np.arange(-_REACH / _SPACING, _REACH / _SPACING + 1)
            grid = np.unique(near[:, None] + offsets) * spacing
        grid = np.asarray(grid, dtype=float)
        curves = np.empty((len(self.nodes), len(grid)))
        for run, (nodes, weights, used) in enumerate(zip(self.nodes, self.weights, filled, strict=True)):
            distances = (grid[:, None] - nodes[used]) / width
            curves[run] = np.exp(-0.5 * distances**2) @ weights[used] / (width * np.sqrt(2 * np.pi))
        mean, error = mean_and_error(curves)
        lower, upper = interval(mean, error, len(curves) - 1)
        return DensityCurve(grid, mean, np.maximum(lower, 0), upper, width)

    def _fractions(self, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean over runs of the share of the weights at marked nodes, and its error."""
        marked = np.where(inside, self.weights, 0).sum(axis=1)
        # Divided by the sum of both parts, in this order, so that all and nothing are exactly 1 and 0.
        return mean_and_error(marked / (marked + np.where(inside, 0, self.weights).sum(axis=1)))
