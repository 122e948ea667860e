r"""Ends of a spectrum: selection and tolerance of Ritz values, and the stopping rule of a run.

Each end is accurate relative to its own value. A value with residual r lies within r of an eigenvalue, and the smallest
eigenvalue of a loss is often a thousandth of the largest; the residual must therefore be small relative to the value
itself. An end that is negligible relative to the other one has no correct digits of its own: it counts as zero if it is
within a hundredth of the tolerance of zero, relative to the largest absolute eigenvalue.

A run that searches beyond the pairs found so far ends when the values it found there have converged. If it found
none, it ends when its extreme Ritz value has converged short of them. It ends earlier if, after m products, the
probability that an eigenvalue beyond the bar b has not shown up yet is below 10^-6. For a start vector that is uniform
on the sphere in n dimensions,

.. math:: P(\theta_1 < b - \epsilon (b - \lambda_{\min})) \le 1.648 \sqrt n \, e^{-\sqrt \epsilon (2 m - 1)}
          \quad \text{if } \lambda_1 \ge b,

see Kuczynski & Wozniakowski, Estimating the largest eigenvalue by the power and Lanczos algorithms with a random start,
SIAM J. Matrix Anal. Appl. 13, 1992. The smallest Ritz value of all runs is used for the smallest eigenvalue.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from sharpness.errors import UserError, choose

#: Which end of the spectrum: algebraically largest, smallest, or both.
ENDS = ("LA", "SA", "both")
_MISSED = 1e-6
#: Allowed residual relative to the value itself: the first number times the tolerance, at most the second number.
OWN, AT_MOST = 5.0, 0.1
#: Values up to this many tolerances, relative to the largest absolute eigenvalue, count as zero.
ZERO = 0.01


def positions(which: str, k: int, available: int) -> np.ndarray:
    """Return the positions of the k wanted values at each end among ascending values, in descending order of value.

    >>> positions("both", 1, 5).tolist(), positions("both", 3, 2).tolist()
    ([4, 0], [1, 0])
    """
    low = set(range(min(k, available))) if which != "LA" else set()
    high = set(range(max(0, available - k), available)) if which != "SA" else set()
    return np.array(sorted(low | high, reverse=True))


@dataclass(frozen=True)
class Ends:
    """The wanted eigenpairs and the criterion for their convergence."""

    size: int
    k: int
    which: str
    tol: float
    max_iterations: int
    dtype: str

    def __post_init__(self) -> None:
        choose("end of the spectrum", self.which, ENDS)
        choose("precision of the vectors", self.dtype, ("torch.float32", "torch.float64"))
        if self.k < 1:
            raise UserError(f"k={self.k}: ask for at least one eigenvalue")
        if not 0 < self.tol < math.inf:
            raise UserError(f"tol={self.tol}: give a positive relative residual, such as 1e-3")
        if self.max_iterations < 1:
            raise UserError(f"max_iterations={self.max_iterations}: a run needs at least one product")

    @property
    def wanted(self) -> int:
        """The number of pairs in the result."""
        return min(2 * self.k if self.which == "both" else self.k, self.size)

    @property
    def margin(self) -> float:
        """The fraction of the allowed residual that a bound may reach; the rest is left to other pairs and rounding."""
        return 0.95 / math.sqrt(1 + self.wanted if self.k > 1 else 1)

    def allowed(self, values: np.ndarray, scale: float, patient: bool = True) -> np.ndarray:
        """Return the largest residuals (m,) at which Ritz values (m,) count as converged.

        Args:
            scale: the largest absolute Ritz value.
            patient: whether enough products were made to accept a value near zero as an end of the spectrum.
        """
        rounding = 50 * torch.finfo(getattr(torch, self.dtype.removeprefix("torch."))).eps
        zero = max(ZERO * self.tol, rounding) * scale
        own = np.minimum(min(OWN * self.tol, AT_MOST) * np.abs(values), self.tol * scale)
        near = np.abs(values) <= zero
        return np.where(near, zero if patient else 0.0, np.maximum(own, rounding * np.abs(values)))

    def judge(
        self, theta: np.ndarray, bounds: np.ndarray, values: np.ndarray, extent: tuple[float, float], patient: bool
    ) -> tuple[np.ndarray, bool]:
        """Return the positions of the Ritz values to keep, and whether all decisive values have converged.

        Args:
            theta: Ritz values of this run, ascending.
            bounds: bounds of their residuals.
            values: eigenvalues of the pairs found so far, descending.
            extent: smallest and largest Ritz value of all runs.
            patient: see :meth:`allowed`.
        """
        found, sought, enough = self._sought(theta, values, *extent)
        allowed = self.margin * self.allowed(theta[sought], max(map(abs, extent)), patient)
        return found, enough and bool((bounds[sought] <= allowed).all())

    def _sought(
        self, theta: np.ndarray, values: np.ndarray, lowest: float, highest: float
    ) -> tuple[np.ndarray, np.ndarray, bool]:
        """Return the positions of Ritz values to keep and of those that must converge, and whether these suffice."""
        wanted, steps, free = positions(self.which, self.k, len(theta)), len(theta), self.size - len(values)
        if len(values) < self.wanted:
            return wanted, wanted, steps >= min(self.wanted, free)
        slack = self.allowed(values, max(abs(lowest), abs(highest)))
        low = -np.inf if self.which == "LA" else values[-self.k] - slack[-self.k]
        high = np.inf if self.which == "SA" else values[self.k - 1] + slack[self.k - 1]
        found = [i for i in wanted if not low <= theta[i] <= high]

        def may_grow(gap: float, spread: float) -> bool:
            if gap < 0 or not math.isfinite(gap):
                return False
            exponent = (2 * steps - 1) * math.sqrt(gap / spread) if spread > 0 else 0.0
            return math.log(1.648) + 0.5 * math.log(free) - exponent > math.log(_MISSED)

        sides = [(0, theta[0] - low, highest - low), (steps - 1, high - theta[-1], high - lowest)]
        doubtful = [position for position, gap, spread in sides if may_grow(gap, spread)]
        return np.array(found, dtype=int), np.array(found + doubtful, dtype=int), True
