"""Confidence intervals over samples: how much would a number change with other images of the same class?"""

from __future__ import annotations

import numpy as np
import scipy

from sharpness.errors import UserError


def require_resamples(resamples: int) -> None:
    """Refuse, before anything is computed, a number of resamples other than 0 that has no tails to cut off.

    Raises:
        UserError: fewer than 100.
    """
    if resamples and resamples < 100:
        raise UserError(f"bootstrap={resamples}: a 95 % interval needs at least 100 resamples")


def mean_interval(
    values: np.ndarray, weights: np.ndarray, resamples: int, seed: int, confidence: float = 0.95
) -> tuple[float, float]:
    r"""The percentile bootstrap interval of :math:`\sum_i a_i q_i / \sum_i a_i`; NaN for fewer than two samples.

    Args:
        values: q, shape (n,).
        weights: a, shape (n,).

    >>> low, high = mean_interval(np.array([1.0, 3.0] * 50), np.ones(100), 999, 0)
    >>> print(round(low, 1), round(high, 1))
    1.8 2.2
    """
    if len(values) < 2:
        return np.nan, np.nan

    def ratio(q: np.ndarray, a: np.ndarray, axis: int) -> np.ndarray:
        return (q * a).sum(axis=axis) / a.sum(axis=axis)

    found = scipy.stats.bootstrap(
        (values, weights),
        ratio,
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        batch=100,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
