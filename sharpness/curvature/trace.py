r"""Estimators of the trace of a symmetric linear operator from random signs: Hutchinson's, and Hutch++.

.. code-block:: text

    Hutchinson:  mean of z' A z over vectors z of random signs
    Hutch++:     Q = orthonormal basis of A S, with random signs S (n, s)      # s products
                 t = sum of q' A q over the columns q of Q                     # s products, exact on the range of Q
                 t + mean of y' A y with y = z - Q Q' z                        # the other products: the remainder

See Hutchinson, Commun. Stat. Simul. Comput. 19, 1990, and Meyer, Musco, Musco & Woodruff, Hutch++, arXiv 2010.09649.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Unpack

import numpy as np
import torch

from sharpness.curvature.krylov import inner, length
from sharpness.curvature.operator import Operator, Product, RunOptions
from sharpness.errors import UserError
from sharpness.keywords import typed_keywords
from sharpness.statistics.estimate import mean_and_error


@dataclass(frozen=True)
class TraceEstimate:
    """An unbiased estimate of a trace, the mean of independent samples, with its standard error.

    If one eigenvalue dominates, the samples are skewed, and an interval needs about ten draws: 95 % intervals from six
    draws of Hutchinson's estimator cover the trace in about 90 % of cases.
    """

    value: float
    standard_error: float
    samples: np.ndarray  # (draws,); for Hutch++ given its basis
    products: int


@typed_keywords()
def hutchinson(
    product: Product,
    size: int,
    draws: int = 30,
    **options: Unpack[RunOptions],
) -> TraceEstimate:
    r"""Estimate a trace by Hutchinson's mean of ``z' A z`` over vectors z of random signs.

    The estimate is unbiased, with variance :math:`2 \sum_{i \ne j} A_{ij}^2` per draw. The standard error is the sample
    standard deviation divided by the square root of the number of draws. The trace of a diagonal operator is exact:

    >>> hutchinson(lambda v: torch.tensor([3.0, 1.0, -2.0], dtype=v.dtype) * v, 3, draws=2).value
    2.0

    Args:
        product: v (n,) to A v (n,).
        size: n.
        draws: number of vectors z, with one product each.
        options: see :class:`~sharpness.curvature.operator.RunOptions`.

    Raises:
        UserError: fewer than 2 draws.
        FloatingPointError: a product that is not finite.
    """
    if draws < 2:
        raise UserError(f"draws={draws}: a standard error needs at least 2")
    operator = Operator(product, **options)
    samples = np.empty(draws)
    for i in range(draws):
        z = operator.signs(size)
        samples[i] = inner(operator(z)[None], z)[0]
    value, error = mean_and_error(samples)
    return TraceEstimate(float(value), float(error), samples, operator.products)


@typed_keywords()
def hutchpp(
    product: Product,
    size: int,
    products: int = 30,
    **options: Unpack[RunOptions],
) -> TraceEstimate:
    r"""Estimate a trace by Hutch++: exactly on a random sketch of the range, by Hutchinson's estimator on the rest.

    One third of the products is used for the sketch, one third for its trace, and the rest for draws of random signs.
    The estimate is unbiased, also conditionally on the basis Q; its conditional variance per draw is
    :math:`2 \sum_{i \ne j} B_{ij}^2` with :math:`B = (I - QQ') A (I - QQ')`. For a positive operator, a relative error
    e takes O(1/e) products instead of Hutchinson's O(1/e^2). The standard error is that of the draws. The trace is
    exact for an operator of rank up to one third of the products. If the sketch repeats a direction, the product saved
    is used for a draw.

    Memory: a third of the products times ``size`` numbers.

    >>> ones = hutchpp(lambda v: v.sum() * torch.ones_like(v), 50, products=6)
    >>> round(ones.value, 9), ones.standard_error < 1e-9
    (50.0, True)

    Args:
        product: v (n,) to A v (n,).
        size: n.
        products: total number of products, at least 6.
        options: see :class:`~sharpness.curvature.operator.RunOptions`.

    Raises:
        UserError: fewer than 6 products.
        FloatingPointError: a product that is not finite.
    """
    if products < 6:
        raise UserError(
            f"products={products}: Hutch++ needs at least 6, two each for the sketch, its trace and the rest"
        )
    operator = Operator(product, **options)
    sketch = min(products // 3, size)
    basis = torch.empty(sketch, size, dtype=operator.dtype, device=operator.device)
    rank, longest = 0, 0.0
    for _ in range(sketch):
        image = operator(operator.signs(size))
        longest = max(longest, length(image))
        # Twice, because one projection leaves rounding errors relative to the image, which may exceed the remainder.
        for _ in range(2):
            image = image - basis[:rank].T @ torch.as_tensor(inner(basis[:rank], image)).to(image)
        remainder = length(image)
        # Not a QR of all images: if the sketch repeats a direction, a column of rounding errors would count as one.
        if remainder > 50 * torch.finfo(operator.dtype).eps * longest:
            basis[rank] = image / remainder
            rank += 1
    basis = basis[:rank]
    captured = float(sum(inner(operator(q)[None], q)[0] for q in basis))
    # All remaining products are draws. `captured` is part of every sample, because it is a constant given Q.
    samples = np.empty(products - sketch - rank)
    for i in range(len(samples)):
        z = operator.signs(size)
        for _ in range(2):
            z = z - basis.T @ torch.as_tensor(inner(basis, z)).to(z)
        samples[i] = captured + inner(operator(z)[None], z)[0]
    value, error = mean_and_error(samples)
    return TraceEstimate(float(value), float(error), samples, operator.products)
