r"""Orthonormal bases of Krylov spaces, extended by one vector per product.

.. code-block:: text

    given r = A v_j:
        r -= (v_j . r) v_j,  r -= (v_{j-1} . r) v_{j-1}       # the three-term recurrence
        repeat  r -= U (U' r)  until r is no longer shortened   # U: locked rows and all v so far
        beta_j = |r|;  v_{j+1} = r / beta_j

All coefficients that were subtracted are kept. With h locked rows Y, the basis V, and coefficients C (h, m) and
H (m, m), :math:`A V = Y C + V H + \beta_m v_{m+1} e_m'` holds up to rounding, whatever errors the products have. The
residual of a Ritz pair of the operator itself, rather than the deflated one, therefore costs no product.

Memory: one vector of n numbers per product, in blocks of eight; nothing is copied when the basis grows.
See Parlett, The Symmetric Eigenvalue Problem, chapters 6 and 13 ("twice is enough").
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

#: Basis vectors in one allocation.
BLOCK = 8
#: Number of entries summed in the vectors' own precision before float64 takes over. A dot product of 25 million
#: float32 numbers in a single sum has an error in the third digit, and so would the unit length of the basis.
_CHUNK = 1 << 16


@dataclass
class Krylov:
    """The basis v_1 ... v_m (and v_{m+1}, unless the space is exhausted), orthogonal to the ``locked`` rows."""

    locked: Tensor  # (h, n) orthonormal rows
    norm: float = 0.0  # the largest |A v| so far; rounding errors are relative to it
    blocks: list[Tensor] = field(default_factory=list)  # of (BLOCK, n)
    rows: int = 0
    columns: list[np.ndarray] = field(default_factory=list)  # m of them, column j (h + j): (Y, V)' A v_j
    beta: list[float] = field(default_factory=list)

    @classmethod
    def starting_at(cls, v: Tensor, locked: Tensor | None = None, norm: float = 0.0) -> Krylov:
        """Make a space of dimension 0. Its first vector is the normalised part of v (n,) orthogonal to locked rows."""
        space = cls(v.new_empty(0, len(v)) if locked is None else locked, norm)
        space._append(unit_orthogonal(v, space.locked))
        return space

    @property
    def steps(self) -> int:
        """m, the number of products so far."""
        return len(self.columns)

    @property
    def last(self) -> Tensor:
        """The vector (n,) to multiply next."""
        return self.blocks[-1][(self.rows - 1) % BLOCK]

    @property
    def exhausted(self) -> bool:
        """True if the space is invariant to rounding: there is no v_{m+1}."""
        return self.rows == self.steps

    def extend(self, image: Tensor) -> None:
        """Extend the basis by ``image`` (n,) = A times ``last``."""
        column = np.zeros(len(self.locked) + self.rows)
        r = image.to(self.locked, copy=True)
        for i in range(self.rows - 1, max(self.rows - 3, -1), -1):
            row = self.blocks[i // BLOCK][i % BLOCK]
            coefficient = inner(row[None], r)
            r.sub_(row, alpha=float(coefficient[0]))
            column[len(self.locked) + i] += coefficient[0]
        before, after = np.inf, length(r)
        while after < before:
            start = 0
            for rows in self._filled():
                coefficients = inner(rows, r)
                r.addmv_(rows.T, torch.as_tensor(coefficients).to(r), alpha=-1)
                column[start : start + len(rows)] += coefficients
                start += len(rows)
            # A vector that kept at least half its length is now orthogonal to working precision.
            before, after = after / 2, length(r)
        self.columns.append(column)
        self.beta.append(after)
        self.norm = max(self.norm, float(np.hypot(np.linalg.norm(column), after)))
        full = len(column) == len(r)
        if not full and after > 50 * torch.finfo(r.dtype).eps * self.norm:
            self._append(r.div_(after))

    def ritz(self) -> tuple[np.ndarray, np.ndarray]:
        """Return Ritz values (m,), ascending, and the orthonormal columns (m, m) of Ritz vectors in the basis."""
        alpha = np.array([column[-1] for column in self.columns])
        theta, s = eigh_tridiagonal(alpha, np.array(self.beta[:-1]))
        return theta, s

    def residuals(self, theta: np.ndarray, s: np.ndarray) -> np.ndarray:
        r"""Return the residuals |A y - theta y| (p,) of Ritz values (p,) and their columns (m, p), without products.

        They are :math:`\sqrt{|C s|^2 + |(H - \theta) s|^2 + \beta_m^2 s_m^2}`. The terms are the part hidden by
        deflation, the asymmetry and rounding of the products, and Lanczos' own bound.
        """
        coefficients = self.coefficients()
        below = np.arange(self.steps - 1)
        coefficients[len(self.locked) + 1 + below, below] = self.beta[:-1]
        inside = coefficients @ s
        inside[len(self.locked) :] -= s * theta
        return np.sqrt((inside**2).sum(axis=0) + (self.beta[-1] * s[-1]) ** 2)

    def combine(self, s: np.ndarray) -> Tensor:
        """Return the unit vectors (p, n) whose coefficients in the basis are the columns (m, p)."""
        weights = torch.as_tensor(s.T).to(self.locked)
        vectors = self.locked.new_zeros(s.shape[1], self.locked.shape[1])
        for i in range(0, self.steps, BLOCK):
            rows = self.blocks[i // BLOCK][: self.steps - i]
            vectors.addmm_(weights[:, i : i + len(rows)], rows)
        return vectors.div_(torch.tensor([length(v) for v in vectors]).to(vectors)[:, None])

    def coefficients(self) -> np.ndarray:
        """Return the upper triangle of C stacked on H, (h + m, m): the coefficients subtracted from each product."""
        matrix = np.zeros((len(self.locked) + self.steps, self.steps))
        for j, column in enumerate(self.columns):
            matrix[: len(column), j] = column
        return matrix

    def snapshot(self) -> Krylov:
        """Return a copy of the current space. It shares the blocks: filled rows of a block never change."""
        return replace(self, blocks=list(self.blocks), columns=list(self.columns), beta=list(self.beta))

    def _append(self, v: Tensor) -> None:
        if self.rows % BLOCK == 0:
            self.blocks.append(v.new_empty(BLOCK, len(v)))
        self.blocks[-1][self.rows % BLOCK] = v
        self.rows += 1

    def _filled(self) -> list[Tensor]:
        whole = [self.locked] if len(self.locked) else []
        return whole + [block[: self.rows - i * BLOCK] for i, block in enumerate(self.blocks)]


def inner(rows: Tensor, v: Tensor) -> np.ndarray:
    """Return float64 inner products of rows (r, n) with v: (r,) for v (n,), (r, m) for v (n, m)."""
    if v.device.type != "cpu":
        return _at_once(rows, v).cpu().numpy()
    total = torch.zeros(len(rows), *v.shape[1:], dtype=torch.float64)
    for i in range(0, len(v), _CHUNK):
        total += rows[:, i : i + _CHUNK] @ v[i : i + _CHUNK]
    return total.numpy()


def _at_once(rows: Tensor, v: Tensor) -> Tensor:
    """Compute ``inner`` in one batched product, because every call is a kernel launch on a GPU.

    On a CPU this takes four times as long for single rows.
    """
    whole = len(v) - len(v) % _CHUNK
    total = (rows[:, whole:] @ v[whole:]).double()
    if whole:
        pieces = rows[:, :whole].unflatten(1, (-1, _CHUNK)).transpose(0, 1)
        sums = torch.bmm(pieces, v[:whole].reshape(len(pieces), _CHUNK, -1)).double().sum(0)
        total += sums.reshape(total.shape)
    return total


def length(v: Tensor) -> float:
    """Return the Euclidean norm of v (n,), summed in float64."""
    return float(np.sqrt(inner(v[None], v)[0]))


def unit_orthogonal(v: Tensor, rows: Tensor) -> Tensor:
    """Return the normalised part of v (n,) that is orthogonal to orthonormal rows (h, n)."""
    for _ in range(2):
        v = v - rows.T @ torch.as_tensor(inner(rows, v)).to(v)
        v = v / length(v)
    return v
