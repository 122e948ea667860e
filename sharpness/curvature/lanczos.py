r"""Extreme eigenvalues of a symmetric linear operator by Lanczos with full re-orthogonalisation.

.. code-block:: text

    pairs = none
    repeat:
        v_1 random, orthogonal to the pairs
        for j = 1, 2, ...:
            grow the Krylov space by A v_j                    # krylov.py: orthogonal to the pairs and all earlier v
            (theta, s) = eigenpairs of the tridiagonal matrix; the bound of pair i is beta_j |s_ji|
            stop when the bounds of the pairs looked for are small beside their values, or the space is exhausted
        keep the k most extreme of the old and the new pairs
    until one run suffices (k = 1), or a run finds nothing more extreme than the pairs at hand

The first run looks for all pairs, a later one only for what lies beyond the pairs at hand: see ends.py.
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

#: Length of the random part that is added to a start vector of length 1. As long as the other: until a run has reduced
#: it to the tolerance, it has raised as much what the start vector lacks, and has seen what is more extreme.
RANDOM_PART = 1.0
#: Products after which a value near zero is believed to be an end of the spectrum.
PATIENCE = 30
#: Dimensions up to which a run spans the whole space. There a residual hardly tells the extreme pair from the next one:
#: of 120 ends of networks with 43 parameters one was the second eigenvalue, which a run had found by chance first.
WHOLE = 64


@dataclass(frozen=True)
class Eigenpairs:
    """Eigenpairs in descending order of value."""

    values: np.ndarray  # (m,) with m = k, or 2 k for both ends (fewer if the operator is smaller)
    vectors: Tensor  # (m, n), orthonormal rows
    residuals: np.ndarray  # (m,)  |A v - value v|, from the recurrence
    converged: np.ndarray  # (m,) bool
    products: int  # with the operator, those before an interruption included
    space: Krylov  # of the last run, orthogonal to ``space.locked``, the pairs of the runs before


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

    One Krylov space sees a repeated eigenvalue once. So for more than one pair, and where a space is exhausted early,
    the run is repeated orthogonally to the pairs at hand: an eigenvalue is found as often as it occurs.

    Residuals are those of A itself, at no product: every coefficient that orthogonalisation took off is kept, those on
    pairs of earlier runs too. The residuals of earlier pairs reappear in those of later ones; for m pairs with
    k > 1 a run therefore stops at bounds of 0.95 / sqrt(m + 1) of what is allowed, so that together they stay below it.
    For k = 1 it stops at 0.95: the rest is left to the errors of the products.

    A residual says that an eigenvalue is near, not that it is the extreme one: a random vector is nearly in the null
    space of the Hessian of a large network, where a first few products already leave a residual that is small beside
    the other end. That it must be small beside its own value keeps such pairs out; an end of the spectrum that counts
    as zero takes 30 products, and of at most 64 dimensions a run takes them all.

    Memory: one vector of ``size`` for every product of a run, see ``lanczos_memory``.

    Args:
        product: v (n,) to A v (n,).
        size: n.
        tol: a pair is converged at a residual of ``tol`` times the largest absolute Ritz value and of ``5 tol`` times
            its own, which is therefore within 0.5 % of an eigenvalue at 1e-3. A value below ``tol / 100`` of the
            largest counts as zero, and is converged at a residual of as much. Pairs lost in rounding are flagged.
        max_iterations: products of one run at most. If that ends the run, pairs that have not converged are flagged,
            and no further run follows.
        checkpoint: called with the state after every product; the caller decides how often to save it.
        state: of an interrupted run with the same settings. It ends with the same bits as without the interruption.
        options: see :class:`~sharpness.curvature.operator.StartOptions`.

    Raises:
        UserError: k, ``which``, tol, ``start`` or ``state`` unusable.
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
        if not resumed:  # a state is taken right after a product, before its outcome has been judged
            space.extend(operator(space.last))
            if checkpoint is not None:
                now = space.snapshot(), values, residuals, lowest, highest, runs, operator.products
                checkpoint(LanczosState(asdict(ends), *now, generator.get_state().numpy().copy()))
        resumed = False

        theta, s = space.ritz()
        lowest, highest = min(lowest, theta[0]), max(highest, theta[-1])
        # In a null space the first few products leave small residuals: a value near zero is believed later.
        patient = runs > 0 or space.exhausted or space.steps >= PATIENCE
        bounds = space.beta[-1] * np.abs(s[-1])
        found, settled = ends.judge(theta, bounds, values, (lowest, highest), patient)
        settled = space.exhausted or (settled and (size > WHOLE or runs > 0))
        if not settled and space.steps < max_iterations:
            continue

        # Residuals by the recurrence, not the bounds: they hold what is left on the pairs of earlier runs as well.
        joined = np.r_[values, theta[found]]
        order = np.argsort(joined, kind="stable")[positions(which, k, len(joined))]
        residuals = np.r_[residuals, space.residuals(theta[found], s[:, found])][order]
        vectors = torch.cat([space.locked, space.combine(s[:, found])])[torch.as_tensor(order, device=device)]
        values = joined[order]
        runs += 1
        # A Krylov space sees a repeated eigenvalue once: of several pairs the last run is one that finds nothing more.
        last = k == 1 or ends.wanted == size or len(found) == 0 or not settled or runs > 2 * k
        if len(values) == ends.wanted and last:
            break
        space = Krylov.starting_at(start_of(size, generator).to(vectors), vectors, space.norm)

    converged = residuals <= ends.allowed(values, max(abs(lowest), abs(highest)), patient)
    return Eigenpairs(values, vectors, residuals, converged, operator.products, space)


def lanczos_memory(size: int, iterations: int, dtype: torch.dtype = torch.float64) -> int:
    """Bytes of the basis of one run of ``iterations`` products, and of its two work vectors.

    Earlier pairs (``size`` numbers each) and the memory of the product itself come on top. One hundred products with a
    ResNet-50 in float32:

    >>> print(f"{lanczos_memory(25_557_032, 100, torch.float32) / 2**30:.1f} GiB")
    10.1 GiB
    """
    rows = math.ceil((min(iterations, size) + 1) / BLOCK) * BLOCK
    return (rows + 2) * size * torch.empty(0, dtype=dtype).element_size()


def start_of(size: int, generator: torch.Generator, start: Tensor | None = None) -> Tensor:
    """A random direction (n,) in float64, or ``start`` with a random part added."""
    random = torch.randn(size, generator=generator, dtype=torch.float64)
    if start is None:
        return random
    if start.shape != (size,) or not bool(torch.isfinite(start).all()) or not bool(start.any()):
        raise UserError(f"start vector of shape {tuple(start.shape)}: give {size} finite numbers that are not all 0")
    start = start.to(random)
    return start / length(start) + RANDOM_PART / length(random) * random
