r"""Extreme eigenvalues of a symmetric linear operator by Lanczos with full re-orthogonalisation.

.. code-block:: text

    pairs = none
    repeat:
        v_1 random, orthogonal to the pairs
        for j = 1, 2, ...:
            extend the Krylov space by A v_j                  # krylov.py: orthogonal to the pairs and all earlier v
            (theta, s) = eigenpairs of the tridiagonal matrix; the bound of pair i is beta_j |s_ji|
            stop when the bounds of the wanted pairs are small relative to their values, or the space is exhausted
        keep the k most extreme of the old and the new pairs
    until one run suffices (k = 1), or a run finds no pair more extreme than those known

The first run searches for all pairs, a later one only for pairs beyond those known: see ends.py.
See Parlett, The Symmetric Eigenvalue Problem, chapter 13.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Unpack

import numpy as np
import torch
from torch import Tensor

from sharpness.curvature.ends import Ends, positions
from sharpness.curvature.krylov import BLOCK, Krylov, length
from sharpness.curvature.lanczos_state import LanczosState
from sharpness.curvature.operator import Operator, Product, StartOptions
from sharpness.errors import UserError
from sharpness.keywords import typed_keywords

#: Length of the random part that is added to a start vector of length 1. With equal lengths, a run that has reduced the
#: random part to the tolerance has amplified eigenvectors missing from the start vector as much, and has found those
#: that are more extreme.
RANDOM_PART = 1.0
#: Number of products before a value near zero is accepted as an end of the spectrum.
PATIENCE = 30
#: Largest dimension for which a run always spans the whole space. In so few dimensions, a small residual hardly
#: distinguishes the extreme pair from the next one: for networks with 43 parameters, one of 120 ends found was the
#: second eigenvalue, which happened to converge first.
WHOLE = 64


@dataclass(frozen=True)
class Eigenpairs:
    """Eigenpairs in descending order of value."""

    values: np.ndarray  # (m,) with m = k, or 2 k for both ends (fewer if the operator is smaller)
    vectors: Tensor  # (m, n), orthonormal rows
    residuals: np.ndarray  # (m,)  |A v - value v|, from the recurrence
    converged: np.ndarray  # (m,) bool
    products: int  # with the operator, including those before an interruption
    space: Krylov  # of the last run; ``space.locked`` are the pairs of earlier runs


@typed_keywords()
def lanczos(
    product: Product,
    size: int,
    k: int = 1,
    which: str = "LA",
    *,
    tol: float = 1e-3,
    max_iterations: int = 200,
    checkpoint: Callable[[LanczosState], object] | None = None,
    state: LanczosState | None = None,
    **options: Unpack[StartOptions],
) -> Eigenpairs:
    r"""Find the k largest eigenvalues, the k smallest, or both, with their eigenvectors.

    A single Krylov space contains a repeated eigenvalue only once. For more than one pair, or if the space is exhausted
    early, the run is therefore repeated orthogonally to the pairs found so far: an eigenvalue is found as often as it
    occurs.

    Residuals are those of A itself and cost no product, because all coefficients subtracted in the orthogonalisation
    are kept, including those of pairs from earlier runs. The residuals of earlier pairs contribute to those of later
    ones. For m pairs with k > 1, a run therefore stops when the bounds are 0.95 / sqrt(m + 1) of the allowed residuals,
    which keeps the total below what is allowed. For k = 1 it stops at 0.95; the rest is left to errors of the products.

    A small residual shows that an eigenvalue is near, but not that it is the extreme one: a random vector is nearly in
    the null space of the Hessian of a large network, and after a few products its residual is already small relative to
    the other end. Such pairs are excluded because the residual must be small relative to the pair's own value. An end
    that counts as zero needs 30 products, and in up to 64 dimensions a run spans the whole space.

    Memory: one vector of ``size`` numbers per product of a run, see ``lanczos_memory``.

    Args:
        product: v (n,) to A v (n,).
        size: n.
        tol: a pair has converged if its residual is at most ``tol`` times the largest absolute Ritz value and at most
            ``5 tol`` times its own value; at 1e-3, the value is within 0.5 % of an eigenvalue. A value below
            ``tol / 100`` of the largest counts as zero, and has converged if its residual is below the same limit.
            Pairs whose accuracy is limited by rounding are flagged as not converged.
        max_iterations: largest number of products of one run. If a run reaches it, pairs that have not converged are
            flagged, and no further run follows unless fewer pairs than wanted have been found.
        checkpoint: called with the state after every product; the caller decides how often to save it.
        state: state of an interrupted call with the same settings, to be continued. The result is bitwise the same as
            without the interruption.
        options: see :class:`~sharpness.curvature.operator.StartOptions`.

    Raises:
        UserError: k, ``which``, tol, ``start`` or ``state`` is invalid.
        FloatingPointError: a product that is not finite.

    >>> pairs = lanczos(lambda v: torch.tensor([3.0, 1.0, -2.0], dtype=v.dtype) * v, 3, which="both")
    >>> pairs.values.round(6).tolist(), pairs.products
    ([3.0, -2.0], 3)
    """
    dtype, device = options["dtype"], options["device"]
    operator = Operator(product, options["callback"], options["generator"], dtype, device)
    generator = operator.generator
    ends = Ends(size, k, which, tol, max_iterations, str(dtype))
    if state is None:
        values, residuals = np.empty(0), np.empty(0)
        lowest, highest, runs = np.inf, -np.inf, 0
        empty = torch.empty(0, size, dtype=dtype, device=device)
        space = Krylov.starting_at(start_of(size, generator, options["start"]).to(empty), empty)
    else:
        state.check(asdict(ends), device)
        values, residuals, operator.products = state.values, state.residuals, state.products
        lowest, highest, runs = state.lowest, state.highest, state.runs
        space = state.space.snapshot()
        generator.set_state(torch.from_numpy(state.generator.copy()))
    resumed = state is not None

    while True:
        if not resumed:  # a state is taken right after a product, before it is judged
            space.extend(operator(space.last))
            if checkpoint is not None:
                now = space.snapshot(), values, residuals, lowest, highest, runs, operator.products
                checkpoint(LanczosState(asdict(ends), *now, generator.get_state().numpy().copy()))
        resumed = False

        theta, s = space.ritz()
        lowest, highest = min(lowest, theta[0]), max(highest, theta[-1])
        # In a null space, residuals are small after a few products: a value near zero is only accepted later.
        patient = runs > 0 or space.exhausted or space.steps >= PATIENCE
        bounds = space.beta[-1] * np.abs(s[-1])
        found, settled = ends.judge(theta, bounds, values, (lowest, highest), patient)
        settled = space.exhausted or (settled and (size > WHOLE or runs > 0))
        if not settled and space.steps < max_iterations:
            continue

        # Residuals from the recurrence rather than the bounds: they include the components along earlier pairs.
        joined = np.r_[values, theta[found]]
        order = np.argsort(joined, kind="stable")[positions(which, k, len(joined))]
        residuals = np.r_[residuals, space.residuals(theta[found], s[:, found])][order]
        vectors = torch.cat([space.locked, space.combine(s[:, found])])[torch.as_tensor(order, device=device)]
        values = joined[order]
        runs += 1
        # A Krylov space contains a repeated eigenvalue once: for several pairs, the last run is one that finds none.
        last = k == 1 or ends.wanted == size or len(found) == 0 or not settled or runs > 2 * k
        if len(values) == ends.wanted and last:
            break
        space = Krylov.starting_at(start_of(size, generator).to(vectors), vectors, space.norm)

    converged = residuals <= ends.allowed(values, max(abs(lowest), abs(highest)), patient)
    return Eigenpairs(values, vectors, residuals, converged, operator.products, space)


def lanczos_memory(size: int, iterations: int, dtype: torch.dtype = torch.float64) -> int:
    """Return the bytes of the basis of one run of ``iterations`` products, and of its two work vectors.

    Pairs of earlier runs (``size`` numbers each) and the memory of the product itself are not included. For one hundred
    products with a ResNet-50 in float32:

    >>> print(f"{lanczos_memory(25_557_032, 100, torch.float32) / 2**30:.1f} GiB")
    10.1 GiB
    """
    rows = math.ceil((min(iterations, size) + 1) / BLOCK) * BLOCK
    return (rows + 2) * size * torch.empty(0, dtype=dtype).element_size()


def start_of(size: int, generator: torch.Generator, start: Tensor | None = None) -> Tensor:
    """Return a random direction (n,) in float64, or ``start`` with a random part added."""
    random = torch.randn(size, generator=generator, dtype=torch.float64)
    if start is None:
        return random
    if start.shape != (size,) or not bool(torch.isfinite(start).all()) or not bool(start.any()):
        raise UserError(f"start vector of shape {tuple(start.shape)}: give {size} finite numbers that are not all 0")
    start = start.to(random)
    return start / length(start) + RANDOM_PART / length(random) * random
