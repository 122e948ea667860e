r"""Interpolation of scattered points of the plane by a polyharmonic spline, with its uncertainty.

Duchon, "Splines minimizing rotation-invariant semi-norms in Sobolev spaces", 1977; the leave-one-out residuals in
closed form are those of Rippa, Adv. Comput. Math. 11, 1999; the power function is in Wendland, "Scattered Data
Approximation", 2004, chapter 11.
"""

from __future__ import annotations

import numpy as np
import scipy

#: Monomials x^a y^b: quadratic surfaces are reproduced exactly.
DEGREES = ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2))
#: Singular values below this fraction of the largest mean that polynomials are linearly dependent at the centres.
SAME = 1e-8


class PolyharmonicSpline:
    r"""``s(x) = sum_i a_i |x - x_i|^3 + q(x)``, q quadratic, with ``s(x_i) = f_i``; ``a`` is orthogonal to quadratics.

    Polynomials that the centres cannot determine, such as quadratics across a line of centres, are left out.

    Args:
        centers: (n, 2) different points x_i, with distances of at most the order of 1.

    >>> x = np.random.default_rng(0).uniform(-1, 1, (9, 2))
    >>> values, power = PolyharmonicSpline(x)(np.array([[0.25, 0.5]]), (x[:, :1] - x[:, 1:]) ** 2)
    >>> round(float(values[0, 0]), 9)
    0.0625
    """

    def __init__(self, centers: np.ndarray) -> None:
        self.centers, size = centers, len(centers)
        left, singular, right = np.linalg.svd(_monomials(centers), full_matrices=False)
        kept = singular > SAME * singular[0]
        self.rank = int(kept.sum())
        self._polynomials = right[kept].T / singular[kept]
        system = np.zeros((size + self.rank, size + self.rank))
        system[:size, :size] = scipy.spatial.distance.cdist(centers, centers) ** 3
        system[:size, size:] = left[:, kept]
        system[size:, :size] = left[:, kept].T
        self._inverse = np.linalg.inv(system)
        self._diagonal = np.maximum(self._inverse.diagonal()[:size], np.finfo(float).tiny)

    def __call__(self, points: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Interpolate values at other points, and compute the power function there.

        Args:
            points: (m, 2) other points.
            values: (n, K) values of K functions at the centres.

        Returns:
            Values (m, K), and the power function (m,): the largest difference between a function of unit norm and its
            interpolant, which is 0 at the centres.
        """
        basis = np.hstack(
            [scipy.spatial.distance.cdist(points, self.centers) ** 3, _monomials(points) @ self._polynomials]
        )
        weights = basis @ self._inverse
        power = np.sqrt(np.maximum(-np.einsum("ij,ij->i", weights, basis), 0.0))
        return weights[:, : len(self.centers)] @ values, power

    def standardised_residuals(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute the leave-one-out residuals at all centres, ``f_i - s_(-i)(x_i) = a_i / G_ii`` with G the inverse.

        Returns:
            Residuals (n, K), and residuals divided by the power function of the other centres, ``G_ii^(-1/2)``.
        """
        size = len(self.centers)
        residuals = (self._inverse[:size, :size] @ values) / self._diagonal[:, None]
        return residuals, residuals * np.sqrt(self._diagonal)[:, None]


def _monomials(points: np.ndarray) -> np.ndarray:
    return np.stack([points[:, 0] ** a * points[:, 1] ** b for a, b in DEGREES], axis=1)
