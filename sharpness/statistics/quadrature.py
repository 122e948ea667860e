r"""Quadrature rules of a spectral measure, and the density, mass and moments computed from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sharpness.errors import UserError
from sharpness.statistics.estimate import interval, mean_and_error

#: Default grid: its spacing, and its reach on either side of a node, in widths.
_SPACING, _REACH = 0.5, 8


@dataclass(frozen=True)
class DensityCurve:
    """A spectral density of total mass 1, smoothed with a Gaussian; times ``size`` it counts eigenvalues per unit."""

    grid: np.ndarray  # (g,)
    density: np.ndarray  # (g,)
    lower: np.ndarray  # (g,)  95 % band of the mean over runs, pointwise; not below 0
    upper: np.ndarray  # (g,)
    width: float  # standard deviation of the Gaussian, in units of the eigenvalues


@dataclass(frozen=True)
class SpectralQuadrature:
    r"""Rules r with nodes and weights such that :math:`\mathrm{tr} f(A) / n \approx \sum_i w_{ri} f(\theta_{ri})`.

    The methods use only these numbers and make no products with the operator. They return each value with the standard
    error of the mean over runs, which is NaN for a single run.

    >>> rule = SpectralQuadrature(np.array([[0.0, 2.0], [0.0, 2.0]]), np.array([[0.7, 0.3], [0.9, 0.1]]), 10, 4)
    >>> print("%.1f +- %.1f" % rule.mass(1, 3), "%.1f +- %.1f" % rule.moment(2), rule.mass(-np.inf, np.inf))
    0.2 +- 0.1 0.8 +- 0.4 (1.0, 0.0)
    """

    nodes: np.ndarray  # (runs, steps), NaN where a Krylov space was exhausted
    weights: np.ndarray  # (runs, steps), rows sum to 1 to rounding; 0 where the node is NaN
    size: int  # n
    products: int

    def moment(self, p: int) -> tuple[float, float]:
        """Return the mean of the p-th power of the eigenvalues and its standard error.

        ``size`` times ``moment(1)`` is the trace.

        Unbiased for p < 2 m, with m the number of steps.
        """
        if p < 0:
            raise UserError(f"p={p}: moments of a spectrum that may contain 0 have p >= 0")
        powers = np.where(np.isnan(self.nodes), 0, self.nodes) ** p
        value, error = mean_and_error((self.weights * powers).sum(axis=1))
        return float(value), float(error)

    def mass(self, low: float, high: float) -> tuple[float, float]:
        """Return the fraction of the eigenvalues in (low, high] and its standard error.

        Computed from the weights, without smoothing; the fraction over the whole line is exactly 1.0. If an end of the
        interval lies in a continuous part of the spectrum, the fraction is accurate only to about the weight of a node.
        """
        fraction, error = self._fractions((self.nodes > low) & (self.nodes <= high))
        return float(fraction), float(error)

    def cumulative(self, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the fractions (g,) of eigenvalues up to every point of the grid, and their standard errors (g,)."""
        pairs = [self._fractions(self.nodes <= x) for x in np.asarray(grid, dtype=float)]
        return np.array([value for value, _ in pairs]), np.array([error for _, error in pairs])

    def density(self, grid: np.ndarray | None = None, width: float | None = None) -> DensityCurve:
        r"""Return the density :math:`\frac1R \sum_r \sum_i w_{ri} N(x; \theta_{ri}, \text{width}^2)`, of total mass 1.

        Args:
            grid: ascending points (g,). By default, all multiples of half a width within 8 widths of a node; the
                trapezoidal rule over them gives a mass of 1.
            width: standard deviation of the Gaussian, in units of the eigenvalues. By default, the range of the nodes
                divided by the number of steps, which is their mean distance: it smooths continuous parts of the
                spectrum and keeps outliers separate. For an operator with a single eigenvalue, a hundredth of its
                absolute value; for the zero operator, 1.
        """
        filled = ~np.isnan(self.nodes)
        if width is None:
            low, high = np.nanmin(self.nodes), np.nanmax(self.nodes)
            largest = max(abs(low), abs(high))
            spread = (high - low) / self.nodes.shape[1]
            # A spread this small is rounding of a single eigenvalue.
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
        """Return the mean over runs of the marked nodes' share of the weights, and its standard error."""
        marked = np.where(inside, self.weights, 0).sum(axis=1)
        # Dividing by the sum of both parts, in this order, makes the fractions of all and of no nodes exactly 1 and 0.
        return mean_and_error(marked / (marked + np.where(inside, 0, self.weights).sum(axis=1)))
