"""A plane on one three-dimensional Axes."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from mpl_toolkits.mplot3d.axes3d import Axes3D

from sharpness.errors import UserError
from sharpness.plots.frames import frame_surface
from sharpness.plots.heatmap import NO_VALUE
from sharpness.plots.levels import Levels
from sharpness.plots.marks import CENTER, MODEL, PATH_END, PATH_START, TRAJECTORY, inside, shows_center
from sharpness.plots.panels import Panel, cell_edges, cells_path

#: Number of points of a path between two steps.
BETWEEN = 40
#: Style of a mark that a part of the surface hides, and the text of its legend entry.
HIDDEN: dict[str, Any] = {"fillstyle": "none", "markeredgecolor": "black", "markersize": 4.5}
BEHIND = "hollow: behind the surface"


def draw_surface(ax: Axes, panel: Panel, levels: Levels, colors: str) -> list[Artist]:
    """Draw a surface in its box, cut off flat at the last level, and return the key to what is not on the scale.

    Cells that are not finite are holes, and hatched on the floor below.

    Raises:
        UserError: flat Axes.
    """
    if not isinstance(ax, Axes3D):
        raise UserError("a surface needs Axes with projection='3d'")
    height = levels.heights(panel.z)
    floor, top = levels.heights(levels.edges[[0, -1]])
    grid_x, grid_y = np.meshgrid(panel.x, panel.y)
    ax.plot_surface(
        grid_x, grid_y, height, cmap=levels.colors(colors, bands=False), vmin=floor, vmax=top, rstride=1, cstride=1,
        linewidth=0.1, edgecolor=(1, 1, 1, 0.25),
    )  # fmt: skip
    frame_surface(ax, panel, levels)
    return [*_draw_points(ax, panel, Relief(panel, height)), *_draw_not_finite(ax, panel, float(floor))]


class Relief:
    """The height of a surface between its points; NaN outside."""

    def __init__(self, panel: Panel, height: np.ndarray) -> None:
        x, y = np.argsort(panel.x), np.argsort(panel.y)
        grid = panel.y[y], panel.x[x]
        self._at = scipy.interpolate.RegularGridInterpolator(
            grid, height[y][:, x], bounds_error=False, fill_value=np.nan
        )
        known = height[np.isfinite(height)]
        size = np.array([np.ptp(panel.x), np.ptp(panel.y), np.ptp(known) if known.size else 0.0])
        self.size = np.where(size > 0, size, 1.0)

    def raise_up(self, points: np.ndarray) -> np.ndarray:
        """Lift points (m, 2) onto the surface, (m, 3)."""
        return np.column_stack([points, self._at(points[:, ::-1])])

    def hides(self, points: np.ndarray, eye: np.ndarray) -> np.ndarray:
        """True where the surface hides points on it (m, 3) from an ``eye`` (4,) in homogeneous coordinates."""
        toward = eye[:3] - eye[3] * points
        toward *= np.sign(toward[:, 2:])  # from above, also from infinity
        step = toward / np.abs(toward / self.size).max(axis=1, keepdims=True)  # to beyond the box
        way = points[:, None] + step[:, None] * np.linspace(0, 1, 400)[1:, None]
        above = self._at(way[..., 1::-1])
        return np.any(above > way[..., 2] + 2e-3 * self.size[2], axis=1)


def eye_of(ax: Axes3D) -> np.ndarray:
    """The eye point in homogeneous coordinates (4,): the null space of the projection."""
    return np.linalg.svd(ax.get_proj()[[0, 1, 3]])[2][-1]


def _draw_points(ax: Axes3D, panel: Panel, relief: Relief) -> list[Artist]:
    """Draw the centre and the marks on the surface; hollow, or dotted, if a part of it hides them."""
    keys: list[Artist] = []
    if shows_center(panel):
        keys += _draw_mark(ax, np.zeros((1, 2)), relief, "center", CENTER)
    if panel.marks is None:
        return keys
    if not panel.marks.connected:
        return [*keys, *_draw_mark(ax, panel.marks.points[inside(panel, panel.marks.points)], relief, "marks", MODEL)]
    points = panel.marks.points
    steps = np.arange(len(points))
    along = np.linspace(0, len(points) - 1, BETWEEN * (len(points) - 1) + 1)
    path = relief.raise_up(np.column_stack([np.interp(along, steps, axis) for axis in points.T]))
    hidden = relief.hides(path, eye_of(ax))
    look = {k: v for k, v in TRAJECTORY.items() if k not in ("label", "zorder") and "marker" not in k}
    for part, gid, line in ((hidden, "hidden trajectory", (0, (1, 1.5))), (~hidden, "trajectory", "-")):
        x, y, z = np.where(part[:, None], path, np.nan).T
        ax.plot(x, y, z, zorder=9, gid=gid, linestyle=line, **look)
    keys.append(Line2D([], [], **TRAJECTORY))
    for point, look, name in ((points[:1], PATH_START, "start"), (points[-1:], PATH_END, "end")):
        if inside(panel, point).all():
            keys += _draw_mark(ax, point, relief, name, look)
            keys.append(Line2D([], [], label=name, linestyle="", **look))
    return keys


def _draw_mark(ax: Axes3D, points: np.ndarray, relief: Relief, gid: str, look: dict[str, Any]) -> list[Artist]:
    """Draw points on the surface, and return the key to those that it hides."""
    raised = relief.raise_up(points)
    hidden = relief.hides(raised, eye_of(ax))
    look = {**look, "linestyle": "", "zorder": 10}
    if not hidden.all():
        ax.plot(*raised[~hidden].T, gid=gid, **look)
    if not hidden.any():
        return []
    ring = {**look, **HIDDEN}
    halo = {**ring, "markeredgecolor": "white", "markeredgewidth": 1.8}
    ax.plot(*raised[hidden].T, **halo)
    ax.plot(*raised[hidden].T, gid=f"hidden {gid}", **ring)
    return [Line2D([], [], label=BEHIND, **{**CENTER, "linestyle": "", **HIDDEN})]


def _draw_not_finite(ax: Axes3D, panel: Panel, floor: float) -> list[Artist]:
    missing = ~np.isfinite(panel.z)
    if not missing.any():
        return []
    path = cells_path(cell_edges(panel.x), cell_edges(panel.y), missing)
    corners = np.reshape(np.asarray(path.vertices), (-1, 5, 2))
    cells = np.concatenate([corners, np.full((*corners.shape[:2], 1), floor)], axis=2)
    ax.add_collection3d(Poly3DCollection(cells, gid="not finite", **NO_VALUE))
    return [Patch(label="not finite", **NO_VALUE)]
