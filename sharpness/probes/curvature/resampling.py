r"""Bootstrap of the ends of a spectrum: the eigenvalues of every resample are recomputed in a common basis.

.. code-block:: text

    V = basis of the Krylov space of H = sum_i a_i H_i / sum_i a_i, grown to DIMENSIONS vectors
    M_i = V' H_i V                                              # for every image i, by products with it alone
    lambda(resample) = extreme eigenvalues of sum_i c_i a_i M_i / sum_i c_i a_i      # c: how often i was drawn

A quotient v'Hv with a fixed eigenvector would not be sufficient: it is at most the largest eigenvalue of a resample and
at least the smallest one, and far from them if one image dominates the class and is not drawn. In a basis, the
eigenvector can move. Directions outside the basis are ignored, so the largest eigenvalue in the basis is still at most
that of the resample.

As a maximum, the largest eigenvalue of resamples is on average larger than that of the sample: with few images, the
interval may not contain the value.
"""

from __future__ import annotations

import numpy as np
import scipy
import torch

from sharpness.curvature.ends import positions
from sharpness.curvature.krylov import inner
from sharpness.curvature.lanczos import Eigenpairs
from sharpness.engine.operator import CurvatureOperator
from sharpness.errors import UserError
from sharpness.objective import Objective

#: Dimensions of the basis, unless the Krylov space is exhausted earlier.
DIMENSIONS = 120
#: Maximum number of products computed at a time, and of their entries.
ROWS, _ENTRIES = 60, 2**27
#: Resamples whose matrices are in memory at a time.
_BATCH = 64


def resampled_ends(
    part: Objective, operator: CurvatureOperator, pairs: Eigenpairs, which: str, k: int, resamples: int, seed: int
) -> tuple[np.ndarray, int]:
    """Compute 95 % percentile intervals of all ``pairs.values``, (2, m), and the number of products they took.

    Products are counted over all images: the Krylov space is extended, then each image takes one product with every
    vector of the basis. Intervals are NaN for fewer than two images.
    """
    nothing = np.full((2, len(pairs.values)), np.nan)
    if part.num_samples < 2:
        return nothing, 0
    space = pairs.space.snapshot()
    grown = 0
    while space.steps + len(space.locked) < DIMENSIONS and not space.exhausted:
        space.extend(operator(space.last))
        grown += 1
    basis = torch.cat([space.locked, *space.blocks])[: len(space.locked) + space.steps]
    forms = np.stack([_forms(part.restrict([i]), basis) for i in range(part.num_samples)])
    found = projected_ends(forms, part.weights.double().numpy(), which, k, resamples, seed)
    return np.quantile(found, [0.025, 0.975], axis=0), grown + len(basis)


def projected_ends(forms: np.ndarray, weights: np.ndarray, which: str, k: int, resamples: int, seed: int) -> np.ndarray:
    """Compute the k largest, k smallest or both eigenvalues of every resample, descending, (resamples, m).

    Args:
        forms: M, shape (n, p, p), symmetric.
        weights: a, shape (n,).
    """
    n, p, _ = forms.shape
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    drawn = counts * weights
    # A resample whose weights are all 0 has no Hessian.
    drawn = drawn / np.where(drawn.sum(axis=1) > 0, drawn.sum(axis=1), np.nan)[:, None]
    found = [
        np.linalg.eigvalsh((part @ forms.reshape(n, -1)).reshape(-1, p, p))[:, positions(which, k, p)]
        for part in np.array_split(drawn[~np.isnan(drawn).any(axis=1)], max(1, -(-resamples // _BATCH)))
    ]
    return np.concatenate(found)


def _forms(one: Objective, basis: torch.Tensor) -> np.ndarray:
    """Compute V' H V (p, p) of an objective of a single image, for the orthonormal rows V (p, k) of a basis."""
    number = max(1, min(ROWS, _ENTRIES // basis.shape[1]))
    with one.operator() as operator:
        matrix = np.hstack([inner(basis, operator.rows(some).T) for some in basis.split(number)])
    return (matrix + matrix.T) / 2


def require_resamples(resamples: int) -> None:
    """Refuse a number of resamples that is too small for percentiles, before anything is computed.

    Raises:
        UserError: fewer than 100, other than 0.
    """
    if resamples and resamples < 100:
        raise UserError(f"bootstrap={resamples}: a 95 % interval needs at least 100 resamples")


def mean_interval(values: np.ndarray, weights: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    r"""Compute the percentile bootstrap interval of :math:`\sum_i a_i q_i / \sum_i a_i`; NaN for a single sample.

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
        confidence_level=0.95,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
