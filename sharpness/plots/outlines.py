"""Outlines of basins on the picture of a plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from sharpness.plots.panels import cell_edges

#: Visible on any colour: a white line around a black one.
UNDER: dict[str, Any] = {"colors": "white", "linewidths": 2.0, "zorder": 3}
OVER: dict[str, Any] = {"colors": "black", "linewidths": 0.9, "zorder": 3.1}


def outline_basins(
    ax: Axes, x: np.ndarray, y: np.ndarray, basins: Sequence[tuple[np.ndarray, float, float, bool]]
) -> Axes:
    """Draw a line around the cells of every basin, solid if it holds the model, and a cross at the bottom.

    Args:
        ax: Axes of a plane.
        x: (nx,) positions of the columns.
        y: (ny,) positions of the rows.
        basins: for each, its cells (ny, nx), the x and the y of its bottom, and whether it holds the model.
    """
    limits = ax.get_xlim(), ax.get_ylim()
    edges = cell_edges(x, True), cell_edges(y, True)
    # Each cell is split into two by two, so that the line also follows cells at the edge of the plane.
    # In the order of the cells, which may descend.
    fine = [np.stack([e[:-1] + 1e-6 * np.diff(e), e[1:] - 1e-6 * np.diff(e)], axis=1).ravel() for e in edges]
    outer = [np.concatenate([[e[0]], f, [e[-1]]]) for e, f in zip(edges, fine, strict=True)]
    for mask, bottom_x, bottom_y, own in basins:
        wide = np.pad(np.repeat(np.repeat(mask, 2, axis=0), 2, axis=1).astype(float), 1)
        for look in (UNDER, OVER):
            ax.contour(*outer, wide, levels=[0.5], linestyles="solid" if own else "dashed", **look)
        ax.plot(bottom_x, bottom_y, "x", color="black", markersize=4, markeredgewidth=1.0, zorder=3.2, gid="bottom")
    ax.set(xlim=limits[0], ylim=limits[1])
    return ax
