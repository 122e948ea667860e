r"""The ends of a spectrum for other images of the same class: every resample is solved again, on one basis.

.. code-block:: text

    V = basis of the Krylov space of H = sum_i a_i H_i / sum_i a_i, grown to DIMENSIONS vectors
    M_i = V' H_i V                                              # for every image i, by products with it alone
    lambda(resample) = extreme eigenvalues of sum_i c_i a_i M_i / sum_i c_i a_i      # c: how often i was drawn

A quotient v'Hv with the eigenvector fixed would not do: it is below the largest eigenvalue of every resample, and
above the smallest one, by far where one image dominates the class and is not drawn. On the basis the eigenvector moves.
What it does not span is left out, so that a largest eigenvalue is still at most that of the resample itself.

The largest eigenvalue of resamples is larger than that of the sample on average, as a maximum is: with few images the
interval may not hold the value.
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

#: Of the basis, where the Krylov space has as many.
DIMENSIONS = 120
#: Products that are made at a time, with so many entries at most.
ROWS, _ENTRIES = 60, 2**27
#: Resamples whose matrices are in memory at a time.
_BATCH = 64


def resampled_ends(
    part: Objective, operator: CurvatureOperator, pairs: Eigenpairs, which: str, k: int, resamples: int, seed: int
) -> tuple[np.ndarray, int]:
    """Percentile intervals of 95 % of all ``pairs.values``, lower and upper ends (2, m), and the products they took.

    Those are products with all images: the Krylov space is grown, and then every image takes one with every vector of
    the basis. NaN for fewer than two images.
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
    """Of every resample the k largest, smallest, or k of each, in descending order, (resamples, m).

    Args:
        forms: M, shape (n, p, p), symmetric.
        weights: a, shape (n,).
    """
    n, p, _ = forms.shape
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    drawn = counts * weights
    # A resample of images that weigh nothing has no Hessian.
    drawn = drawn / np.where(drawn.sum(axis=1) > 0, drawn.sum(axis=1), np.nan)[:, None]
    found = [
        np.linalg.eigvalsh((part @ forms.reshape(n, -1)).reshape(-1, p, p))[:, positions(which, k, p)]
        for part in np.array_split(drawn[~np.isnan(drawn).any(axis=1)], max(1, -(-resamples // _BATCH)))
    ]
    return np.concatenate(found)


def _forms(one: Objective, basis: torch.Tensor) -> np.ndarray:
    """V' H V of the only image of an objective, (p, p), for orthonormal rows V (p, k)."""
    number = max(1, min(ROWS, _ENTRIES // basis.shape[1]))
    with one.operator() as operator:
        matrix = np.hstack([inner(basis, operator.rows(some).T) for some in basis.split(number)])
    return (matrix + matrix.T) / 2


def require_resamples(resamples: int) -> None:
    """Refuse, before anything is computed, a number of resamples other than 0 that has no tails to cut off.

    Raises:
        UserError: fewer than 100.
    """
    if resamples and resamples < 100:
        raise UserError(f"bootstrap={resamples}: a 95 % interval needs at least 100 resamples")


def mean_interval(values: np.ndarray, weights: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
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
        confidence_level=0.95,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
