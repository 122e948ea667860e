"""Panels: the values and marks in a picture of a plane, and the cells of its grid."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.path import Path

from sharpness.errors import UserError


class Marks(NamedTuple):
    """Points on a plane: labelled models, or the steps of a trajectory."""

    points: np.ndarray  # (m, 2)
    names: tuple[str, ...] = ()
    connected: bool = False


class Panel(NamedTuple):
    """A surface, with ``z[j, i]`` at ``(x[i], y[j])``."""

    x: np.ndarray  # (nx,)
    y: np.ndarray  # (ny,)
    z: np.ndarray  # (ny, nx)
    marks: Marks | None = None
    evaluated: np.ndarray | None = None  # (ny, nx)


def check_panel(name: str, panel: Panel) -> None:
    """Refuse a panel without an area.

    Raises:
        UserError: fewer than two different positions along a side, positions out of order, or another shape of ``z``.
    """
    x, y, z = panel[:3]
    if z.shape != (len(y), len(x)):
        raise UserError(f"{name}: values of shape {z.shape} for {len(y)} x {len(x)} points")
    for axis, positions in (("x", x), ("y", y)):
        steps = np.diff(positions)
        if not len(steps) or not ((steps > 0).all() or (steps < 0).all()):
            found = np.unique(positions).size
            raise UserError(
                f"{name}: {axis} holds {found} positions: a picture of a plane needs two or more, in "
                "order; draw a line instead"
            )


def cell_edges(positions: np.ndarray, whole: bool = False) -> np.ndarray:
    """Edges (n + 1,) of the cells around n positions, half-way between them.

    The first and the last cell end at their positions, or half a step beyond if ``whole``.

    >>> cell_edges(np.array([0.0, 1.0, 3.0])).tolist()
    [0.0, 0.5, 2.0, 3.0]
    >>> cell_edges(np.array([0.0, 1.0, 3.0]), whole=True).tolist()
    [-0.5, 0.5, 2.0, 4.0]
    """
    middles = (positions[1:] + positions[:-1]) / 2
    first, last = positions[0], positions[-1]
    if whole:
        first, last = 2 * first - middles[0], 2 * last - middles[-1]
    return np.concatenate([[first], middles, [last]])


def cells_path(x_edges: np.ndarray, y_edges: np.ndarray, chosen: np.ndarray) -> Path:
    """The outlines of the cells that are True in ``chosen`` (ny, nx), five vertices each, as one path."""
    j, i = np.nonzero(chosen)
    left, right, low, high = x_edges[i], x_edges[i + 1], y_edges[j], y_edges[j + 1]
    corners = [(left, low), (right, low), (right, high), (left, high), (left, low)]
    vertices = np.stack([np.stack(c, axis=1) for c in corners], axis=1).reshape(-1, 2)
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    return Path(vertices, np.tile(codes, len(i)))
