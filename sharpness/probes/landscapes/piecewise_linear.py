"""Interpolation of step functions, linear on triangles and thus within the range of their corners."""

from __future__ import annotations

import numpy as np
import scipy

#: Rounding tolerance for points outside a triangle, in barycentric coordinates.
ROUNDING = 1e-9


def interpolate_linearly(centers: np.ndarray, values: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Interpolate values at other points, and compute their spread nearby.

    Triangles are those of Delaunay, or segments if the centres are on a line. The spread of a point is over the corners
    of the triangle around it and of the triangles adjacent to this one; it bounds the error of a function that is
    monotone among them. A point outside all triangles gets the value of the nearest centre, and the spread of all
    centres.

    Args:
        centers: (n, 2) different points, in general position or all on one line along an axis.
        values: (n, K) values of K functions at the centres.
        points: (m, 2) other points.

    Returns:
        Values (m, K) and spreads (m, K).

    >>> corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> interpolate_linearly(corners, np.array([[0.0], [1.0], [0.5]]), np.array([[0.25, 0.5]]))
    (array([[0.5]]), array([[1.]]))
    """
    flat = np.flatnonzero(np.ptp(centers, axis=0) == 0)
    corners, weights, nearby = _segments(centers, points, 1 - flat[0]) if len(flat) else _triangles(centers, points)
    found = np.einsum("ij,ijk->ik", weights, values[corners])
    spread = np.ptp(values[nearby], axis=1)
    lost = np.isnan(weights).any(axis=1)
    if lost.any():
        found[lost] = values[scipy.spatial.cKDTree(centers).query(points[lost])[1]]
        spread[lost] = np.ptp(values, axis=0)
    return found, spread


def _triangles(centers: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Corners (m, 3) of the triangle around each point, barycentric weights (NaN outside), nearby corners (m, 12)."""
    mesh = scipy.spatial.Delaunay(centers)
    found = mesh.find_simplex(points, tol=ROUNDING)
    affine = mesh.transform[found]
    two = np.einsum("ijk,ik->ij", affine[:, :2], points - affine[:, 2])
    weights = np.clip(np.column_stack([two, 1 - two.sum(axis=1)]), 0, 1)
    weights /= weights.sum(axis=1, keepdims=True)
    weights[found < 0] = np.nan
    beside = np.where(mesh.neighbors[found] < 0, found[:, None], mesh.neighbors[found])
    nearby = mesh.simplices[np.column_stack([found, beside])].reshape(len(points), -1)
    return mesh.simplices[found], weights, nearby


def _segments(centers: np.ndarray, points: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same for centres on a line along an axis, with shapes (m, 2), (m, 2) and (m, 4)."""
    order = np.argsort(centers[:, axis])
    along, last = centers[order, axis], len(order) - 1
    right = np.searchsorted(along, points[:, axis]).clip(1, last)
    share = (points[:, axis] - along[right - 1]) / (along[right] - along[right - 1])
    weights = np.column_stack([1 - share, share])
    weights[(share < -ROUNDING) | (share > 1 + ROUNDING)] = np.nan
    nearby = (right[:, None] + np.arange(-2, 2)).clip(0, last)
    return order[np.column_stack([right - 1, right])], weights, order[nearby]
