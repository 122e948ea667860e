r"""Extreme eigenvalues of a symmetric linear operator by Lanczos with full re-orthogonalisation.

.. code-block:: text

    v_1 random, |v_1| = 1
    for j = 1, 2, ...:
        r       = A v_j
        alpha_j = v_j . r
        r      -= V (V' r), twice          # all earlier v: no ghost copies
        beta_j  = |r|;  v_{j+1} = r / beta_j
        (theta, s) = eigenpairs of the tridiagonal (alpha, beta); residual of pair i is beta_j |s_ji|
        stop when the wanted pairs have residuals below tol * max |theta|

See Parlett, The Symmetric Eigenvalue Problem, chapter 13.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from sharpness.errors import UserError, choose

#: Which end of the spectrum: algebraically largest, smallest, or both.
ENDS = ("LA", "SA", "both")


@dataclass(frozen=True)
class Eigenpairs:
    """Eigenpairs in descending order of value."""

    values: np.ndarray  # (m,) with m = k, or 2 k for both ends (fewer if the operator is smaller)
    vectors: Tensor  # (m, n), orthonormal rows
    residuals: np.ndarray  # (m,)  |A v - value v|, from one more product each
    converged: np.ndarray  # (m,) bool
    products: int  # with the operator, those for the residuals included


def lanczos(
    product: Callable[[Tensor], Tensor],
    size: int,
    k: int = 1,
    which: str = "LA",
    *,
    tol: float = 1e-3,
    max_iterations: int = 200,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    callback: Callable[[int], None] | None = None,
) -> Eigenpairs:
    """The k largest, smallest, or k largest and k smallest eigenvalues from one Krylov space.

    Memory: one vector of ``size`` per product. Where the space is exhausted early, as with repeated eigenvalues or
    an operator of low rank, the run goes on with a fresh random vector orthogonal to it, at most k times, so that an
    eigenvalue of multiplicity k is found k times.

    Args:
        product: v (n,) to A v (n,).
        size: n.
        tol: residual relative to the largest absolute Ritz value at which a pair is converged.
        max_iterations: products at most, before those that check the residuals.
        generator: of the start vector; a CPU generator seeded with 0 unless given.
        callback: called with 1 after every product.

    Raises:
        UserError: k or ``which`` out of range.
        FloatingPointError: a product that is not finite.

    >>> pairs = lanczos(lambda v: torch.tensor([3.0, 1.0, -2.0], dtype=v.dtype) * v, 3, which="both")
    >>> pairs.values.round(6).tolist()
    [3.0, -2.0]
    """
    choose("end of the spectrum", which, ENDS)
    if k < 1:
        raise UserError(f"k={k}: ask for at least one eigenvalue")
    if tol <= 0:
        raise UserError(f"tol={tol}: give a positive relative residual, such as 1e-3")
    generator = generator or torch.Generator().manual_seed(0)
    epsilon = torch.finfo(dtype).eps
    limit = min(size, max_iterations)
    basis = torch.empty(limit, size, dtype=dtype, device=device)
    alpha: list[float] = []
    beta: list[float] = []
    blocks, scale = 1, 0.0
    basis[0] = _orthonormal(basis[:0], size, generator, dtype, device)
    theta, weights = np.zeros(1), np.ones((1, 1))
    for j in range(limit):
        r = product(basis[j])
        if callback is not None:
            callback(1)
        if not bool(torch.isfinite(r).all()):
            raise FloatingPointError(f"product {j + 1} with the operator is not finite: the loss overflows here")
        alpha.append(float(basis[j] @ r))
        for _ in range(2):
            r = r - basis[: j + 1].T @ (basis[: j + 1] @ r)
        norm = float(r.norm())
        theta, weights = eigh_tridiagonal(np.array(alpha), np.array(beta))
        scale = max(scale, float(np.abs(theta).max()))
        exhausted = norm <= 10 * epsilon * np.sqrt(size) * max(scale, norm and 1e-300)
        wanted = _ends(len(theta), k, which)
        enough = len(theta) >= min(2 * k if which == "both" else k, size)
        if exhausted:
            blocks += 1
            if blocks > k and enough:
                break
            norm = 0.0
        elif enough and bool((norm * np.abs(weights[-1, wanted]) <= tol * scale).all()):
            break
        if j + 1 < limit:
            beta.append(norm)
            basis[j + 1] = _orthonormal(basis[: j + 1], size, generator, dtype, device) if exhausted else r / norm
    wanted = _ends(len(theta), k, which)
    vectors = torch.as_tensor(weights[:, wanted].T, dtype=dtype, device=device) @ basis[: len(theta)]
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    residuals = np.empty(len(wanted))
    for i, v in enumerate(vectors):
        residuals[i] = float((product(v) - float(theta[wanted[i]]) * v).norm())
        if callback is not None:
            callback(1)
    bound = tol * scale + 10 * epsilon * np.sqrt(size) * scale
    return Eigenpairs(theta[wanted], vectors, residuals, residuals <= bound, len(theta) + len(wanted))


def _ends(available: int, k: int, which: str) -> np.ndarray:
    """Positions of the wanted values among ascending ones, in descending order of value."""
    low = set(range(min(k, available))) if which != "LA" else set()
    high = set(range(max(0, available - k), available)) if which != "SA" else set()
    return np.array(sorted(low | high, reverse=True))


def _orthonormal(
    basis: Tensor, size: int, generator: torch.Generator, dtype: torch.dtype, device: torch.device | str
) -> Tensor:
    """A random unit vector orthogonal to the rows of ``basis``."""
    v = torch.randn(size, generator=generator, dtype=torch.float64).to(device=device, dtype=dtype)
    for _ in range(2):
        v = v - basis.T @ (basis @ v)
        v = v / v.norm()
    return v
