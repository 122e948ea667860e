"""A plane on one three-dimensional Axes."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from mpl_toolkits.mplot3d.axes3d import Axes3D
from scipy.interpolate import RegularGridInterpolator

from sharpness.errors import UserError
from sharpness.plots.heatmap import NO_VALUE
from sharpness.plots.levels import Levels
from sharpness.plots.marks import CENTER, inside, shows_center
from sharpness.plots.panels import Panel, cell_edges, cells_path


def draw_surface(ax: Axes, panel: Panel, levels: Levels, colors: str) -> list[Patch]:
    """A surface cut off flat at the last level; returned is the key to what is not on the scale.

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
        grid_x, grid_y, height, cmap=colors, vmin=floor, vmax=top, rstride=1, cstride=1, linewidth=0.1,
        edgecolor=(1, 1, 1, 0.25),
    )  # fmt: skip
    _draw_points(ax, panel, height)
    return _draw_not_finite(ax, panel, float(floor))


def _draw_points(ax: Axes3D, panel: Panel, height: np.ndarray) -> None:
    """The centre and the marks, on the surface."""
    x, y = np.argsort(panel.x), np.argsort(panel.y)
    at = RegularGridInterpolator((panel.y[y], panel.x[x]), height[y][:, x])
    center = np.zeros((1, 2))
    if shows_center(panel):
        ax.plot([0], [0], at(center), linestyle="", zorder=10, gid="center", **CENTER)
    if panel.marks is None:
        return
    shown = panel.marks.points[inside(panel, panel.marks.points)]
    path = "-" if panel.marks.connected else ""
    look = {"marker": "D", "markersize": 2.5, "color": "black", "markerfacecolor": "#E69F00", "markeredgewidth": 0.5}
    ax.plot(*shown.T, at(shown[:, ::-1]), linestyle=path, linewidth=0.8, zorder=9, gid="marks", **look)


def _draw_not_finite(ax: Axes3D, panel: Panel, floor: float) -> list[Patch]:
    missing = ~np.isfinite(panel.z)
    if not missing.any():
        return []
    path = cells_path(cell_edges(panel.x), cell_edges(panel.y), missing)
    corners = np.reshape(np.asarray(path.vertices), (-1, 5, 2))
    cells = np.concatenate([corners, np.full((*corners.shape[:2], 1), floor)], axis=2)
    ax.add_collection3d(Poly3DCollection(cells, gid="not finite", **NO_VALUE))
    return [Patch(label="not finite", **NO_VALUE)]
