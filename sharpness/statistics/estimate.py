"""Means of independent samples, with standard errors and 95 % intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import ndtri, stdtrit

#: Upper quantile of a two-sided 95 % interval.
_TAIL = 0.975


def mean_and_error(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Return the mean over the first axis and its standard error :math:`s / \sqrt m`; NaN for m = 1.

    s is the sample standard deviation, with m - 1 in the denominator.

    >>> mean, error = mean_and_error(np.array([1.0, 2.0, 3.0]))
    >>> print(mean, error.round(4))
    2.0 0.5774
    """
    count = len(samples)
    if count < 2:
        return samples.mean(axis=0), np.full(samples.shape[1:], np.nan)
    return samples.mean(axis=0), samples.std(axis=0, ddof=1) / np.sqrt(count)


def interval(value: Any, error: Any, freedom: Any = np.inf, keeps_sign: Any = False) -> np.ndarray:
    r"""Return Student's 95 % intervals of estimates with standard errors: lower and upper ends, (2, ...).

    .. math:: m \pm t \, \mathrm{se}, \qquad\text{or}\qquad m \, e^{\pm t \, \mathrm{se} / |m|}

    where t is the 97.5 % quantile of Student's t distribution.

    Args:
        value: m, shape (...).
        error: se, shape (...); NaN gives no interval.
        freedom: degrees of freedom, one less than the number of samples; infinity gives t = 1.96, as for a normal
            distribution.
        keeps_sign: true for a quantity whose sign is fixed, such as a loss, or an array of truth values, shape (...).
            The interval is then symmetric on a logarithmic scale (delta method) and does not reach zero.

    >>> interval(1.0, 0.5, 4).round(3), interval(1.0, 0.5, 4, keeps_sign=True).round(3)
    (array([-0.388,  2.388]), array([0.25 , 4.008]))
    """
    value, error = np.broadcast_arrays(np.asarray(value, dtype=float), np.asarray(error, dtype=float))
    known = np.where(np.asarray(freedom) > 0, freedom, np.nan)
    half = np.where(np.isinf(known), ndtri(_TAIL), stdtrit(known, _TAIL)) * error
    ends = np.stack([value - half, value + half])
    if np.any(keeps_sign):
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            factor = np.exp(half / np.abs(value))
            scaled = np.sort(np.stack([value / factor, value * factor]), axis=0)
        ends = np.where(keeps_sign & (value != 0) & np.isfinite(half), scaled, ends)
    return ends


def wilson(share: Any, samples: Any) -> np.ndarray:
    r"""Return Wilson's 95 % interval of an accuracy: lower and upper ends, (2, ...).

    .. math:: \frac{p + z^2 / 2n \pm z \sqrt{p (1 - p) / n + z^2 / 4n^2}}{1 + z^2 / n}

    It stays within [0, 1], and has a positive length at an accuracy of 0 or 1.

    Args:
        share: p, shape (...).
        samples: n, shape (...); for weighted samples, the result of ``effective_samples``.

    >>> wilson(1.0, 10).round(3)
    array([0.722, 1.   ])
    """
    p, n = np.asarray(share, dtype=float), np.asarray(samples, dtype=float)
    z = ndtri(_TAIL)
    with np.errstate(divide="ignore", invalid="ignore"):
        middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z * np.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2) / (1 + z**2 / n)
    ends = np.stack([np.minimum(middle - half, p), np.maximum(middle + half, p)])  # rounding of 0 and 1
    return np.where(n > 0, ends, np.nan)


def effective_samples(weights: np.ndarray) -> float:
    r"""Return Kish's effective number of weighted samples, :math:`(\sum_i a_i)^2 / \sum_i a_i^2`.

    >>> effective_samples(np.array([2.0, 2.0, 2.0])), effective_samples(np.array([1.0, 0.0]))
    (3.0, 1.0)
    """
    squares = float((weights**2).sum())
    return float(weights.sum()) ** 2 / squares if squares > 0 else 0.0


def mean_interval_of(values: np.ndarray, ends: np.ndarray) -> np.ndarray:
    r"""Return the interval of the unweighted mean of G independent estimates, given their intervals.

    The intervals need not be symmetric. The half-lengths of each side are added in quadrature, which is exact for
    normal estimates ("MOVER", Zou & Donner, Stat. Med. 27, 2008):

    .. math:: \bar m - \tfrac1G \sqrt{\textstyle\sum_g (m_g - l_g)^2}, \quad
              \bar m + \tfrac1G \sqrt{\textstyle\sum_g (u_g - m_g)^2}.

    Args:
        values: m, shape (G,).
        ends: lower ends l and upper ends u, (2, G).

    >>> mean_interval_of(np.array([1.0, 3.0]), np.array([[0.0, 3.0], [4.0, 7.0]]))
    array([1.5, 4.5])
    """
    halves = np.sqrt(((ends - values) ** 2).sum(axis=1)) / len(values)
    return values.mean() + np.array([-1.0, 1.0]) * halves
