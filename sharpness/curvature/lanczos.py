r"""Extreme eigenvalues of a symmetric linear operator by Lanczos with full re-orthogonalisation.

.. code-block:: text

    v_1 random, |v_1| = 1
    for j = 1, 2, ...:
        r       = A v_j
        alpha_j = v_j . r
        r      -= V (V' r), twice          # all earlier v: no ghost copies
        beta_j  = |r|;  v_{j+1} = r / beta_j
        (theta, s) = eigenpairs of the tridiagonal (alpha, beta); residual of pair i is beta_j |s_ji|
        stop when the wanted pairs have residuals below tol * max |theta|, or when beta_j vanishes

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
    """The k largest, smallest, or k largest and k smallest eigenvalues.

    One Krylov space sees a repeated eigenvalue once. So for more than one pair, and where a space is exhausted early,
    the run is repeated orthogonally to the pairs it found, until nothing more extreme turns up: an eigenvalue is
    found as often as it occurs. Memory: one vector of ``size`` per iteration.

    Args:
        product: v (n,) to A v (n,).
        size: n.
        tol: residual relative to the largest absolute Ritz value at which a pair is converged.
        max_iterations: products of one run at most.
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
    wanted = min(2 * k if which == "both" else k, size)
    values, vectors = np.empty(0), torch.empty(0, size, dtype=dtype, device=device)
    products, scale = 0, 0.0

    def counted(v: Tensor) -> Tensor:
        nonlocal products
        products += 1
        result = product(v)
        if not bool(torch.isfinite(result).all()):
            raise FloatingPointError(f"product {products} with the operator is not finite: the loss overflows here")
        if callback is not None:
            callback(1)
        return result

    for _ in range(2 * k + 1):
        theta, ritz, size_seen = _krylov(counted, vectors, k, which, tol, scale, max_iterations, generator)
        scale = max(scale, size_seen)
        joined, all_vectors = np.concatenate([values, theta]), torch.cat([vectors, ritz])
        order = np.argsort(joined, kind="stable")
        chosen = order[_ends(len(order), k, which)]
        settled = len(values) == len(chosen) and bool(np.abs(joined[chosen] - values).max() <= tol * scale)
        values, vectors = joined[chosen], all_vectors[torch.as_tensor(chosen, device=device)]
        if len(values) == wanted and (k == 1 or settled or wanted == size):
            break
    residuals = np.array([float((counted(v) - float(t) * v).norm()) for t, v in zip(values, vectors, strict=True)])
    bound = (tol + 10 * torch.finfo(dtype).eps * size**0.5) * scale
    return Eigenpairs(values, vectors, residuals, residuals <= bound, products)


def _krylov(
    product: Callable[[Tensor], Tensor],
    locked: Tensor,
    k: int,
    which: str,
    tol: float,
    scale: float,
    max_iterations: int,
    generator: torch.Generator,
) -> tuple[np.ndarray, Tensor, float]:
    """One run orthogonal to the ``locked`` rows: wanted values (m,), vectors (m, n), and the largest |value| seen."""
    free = locked.shape[1] - len(locked)
    limit = min(free, max_iterations)
    basis = torch.cat([locked, locked.new_empty(limit, locked.shape[1])])
    first = len(locked)
    basis[first] = _orthonormal(locked, generator)
    alpha: list[float] = []
    beta: list[float] = []
    while True:
        last = first + len(alpha)
        r = product(basis[last])
        alpha.append(float(basis[last] @ r))
        for _ in range(2):
            r = r - basis[: last + 1].T @ (basis[: last + 1] @ r)
        norm = float(r.norm())
        theta, weights = eigh_tridiagonal(np.array(alpha), np.array(beta))
        scale = max(scale, float(np.abs(theta).max()))
        ends = _ends(len(theta), k, which)
        enough = len(theta) >= min(2 * k if which == "both" else k, free)
        small = norm <= 10 * torch.finfo(basis.dtype).eps * free**0.5 * scale
        converged = enough and bool((norm * np.abs(weights[-1, ends]) <= tol * scale).all())
        if small or converged or len(theta) == limit:
            break
        beta.append(norm)
        basis[last + 1] = r / norm
    vectors = torch.as_tensor(weights[:, ends].T).to(basis) @ basis[first : first + len(theta)]
    return theta[ends], vectors / vectors.norm(dim=1, keepdim=True), scale


def _ends(available: int, k: int, which: str) -> np.ndarray:
    """Positions of the wanted values among ascending ones, in descending order of value."""
    low = set(range(min(k, available))) if which != "LA" else set()
    high = set(range(max(0, available - k), available)) if which != "SA" else set()
    return np.array(sorted(low | high, reverse=True))


def _orthonormal(locked: Tensor, generator: torch.Generator) -> Tensor:
    """A random unit vector orthogonal to the rows of ``locked``."""
    v = torch.randn(locked.shape[1], generator=generator, dtype=torch.float64).to(locked)
    for _ in range(2):
        v = v - locked.T @ (locked @ v)
        v = v / v.norm()
    return v
