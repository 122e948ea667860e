"""Means of independent samples, with Student's intervals."""

from __future__ import annotations

import numpy as np
from scipy.special import stdtrit

from sharpness.errors import UserError


def mean_and_error(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Mean over the first axis, and its standard error :math:`s / \sqrt m` (s with m - 1 degrees; NaN for m = 1).

    >>> mean, error = mean_and_error(np.array([1.0, 2.0, 3.0]))
    >>> print(mean, error.round(4))
    2.0 0.5774
    """
    count = len(samples)
    if count < 2:
        return samples.mean(axis=0), np.full(samples.shape[1:], np.nan)
    return samples.mean(axis=0), samples.std(axis=0, ddof=1) / np.sqrt(count)


def student(confidence: float, samples: int) -> float:
    """Half the width of a two-sided interval in standard errors, for the mean of that many samples.

    With few samples it is well above the 1.96 of the normal law:

    >>> print(round(student(0.95, 5), 3), round(student(0.95, 1000), 2))
    2.776 1.96

    Raises:
        UserError: ``confidence`` is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise UserError(f"confidence={confidence}: give a number between 0 and 1, such as 0.95")
    return float(stdtrit(samples - 1, 0.5 + confidence / 2)) if samples > 1 else float("nan")
