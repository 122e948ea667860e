r"""The spectral density of a symmetric linear operator by stochastic Lanczos quadrature.

.. code-block:: text

    for every draw r:
        v_1 = z / sqrt(n), z random signs
        m steps of Lanczos with full re-orthogonalisation             # krylov.py; m products
        nodes theta_ri = Ritz values, weights w_ri = s_1i^2           # Gauss quadrature of v_1' f(A) v_1
    tr f(A) / n = mean over draws of sum_i w_ri f(theta_ri)

A rule of m nodes integrates polynomials of degree 2 m - 1 exactly, and :math:`E\, v_1 v_1' = I / n`; moments up to that
degree are therefore unbiased. Random signs and normalised Gaussian vectors are both unbiased, but with random signs the
first moment is Hutchinson's estimate of the trace, whose variance is smaller, and zero for a diagonal operator.

See Ubaru, Chen & Saad, SIAM J. Matrix Anal. Appl. 38, 2017, and Ghorbani, Krishnan & Xiao, arXiv 1901.10159.
"""

from __future__ import annotations

from typing import Unpack

import numpy as np

from sharpness.curvature.krylov import Krylov
from sharpness.curvature.operator import Operator, Product, RunOptions
from sharpness.errors import UserError
from sharpness.keywords import typed_keywords
from sharpness.statistics.quadrature import SpectralQuadrature


@typed_keywords()
def stochastic_lanczos(
    product: Product,
    size: int,
    draws: int = 10,
    steps: int = 80,
    **options: Unpack[RunOptions],
) -> SpectralQuadrature:
    r"""Estimate the spectral measure by one quadrature rule per draw, from which density, mass and moments follow.

    Makes ``draws * steps`` products, fewer if a Krylov space is exhausted early. Memory: ``steps + 1`` vectors.

    Args:
        product: v (n,) to A v (n,).
        size: n.
        draws: number of independent start vectors, at least 2; their spread gives the standard error.
        steps: number of nodes per rule. They resolve the ends of the spectrum best.
        options: see :class:`~sharpness.curvature.operator.RunOptions`.

    Raises:
        UserError: too few draws or steps.
        FloatingPointError: a product that is not finite.

    >>> import torch
    >>> rule = stochastic_lanczos(lambda v: torch.tensor([3.0, 1.0, 1.0], dtype=v.dtype) * v, 3, draws=2, steps=5)
    >>> rule.nodes[0].round(6).tolist(), rule.weights[0].round(6).tolist(), rule.products
    ([1.0, 3.0, nan, nan, nan], [0.666667, 0.333333, 0.0, 0.0, 0.0], 4)
    """
    if draws < 2 or steps < 1:
        raise UserError(f"draws={draws}, steps={steps}: give at least 2 draws, for a standard error, and 1 step")
    operator = Operator(product, **options)
    nodes, weights = np.full((draws, steps), np.nan), np.zeros((draws, steps))
    for draw in range(draws):
        space = Krylov.starting_at(operator.signs(size))
        while space.steps < steps and not space.exhausted:
            space.extend(operator(space.last))
        theta, s = space.ritz()
        nodes[draw, : len(theta)] = theta
        weights[draw, : len(theta)] = s[0] ** 2 / (s[0] ** 2).sum()
    return SpectralQuadrature(nodes, weights, size, operator.products)
