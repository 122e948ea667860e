"""Marks on the picture of a plane: the centre, other models, a trajectory, evaluated points."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from sharpness.plots.panels import Marks, Panel

#: Halo of lines and letters that must be visible on any colour.
HALO = [withStroke(linewidth=1.4, foreground="white", alpha=0.9)]
CENTER: dict[str, Any] = {
    "marker": "o",
    "color": "white",
    "markeredgecolor": "black",
    "markersize": 3.5,
    "markeredgewidth": 0.6,
}
EVALUATED: dict[str, Any] = {
    "linestyle": "",
    "marker": ".",
    "color": "black",
    "markersize": 1.5,
    "markeredgewidth": 0,
    "zorder": 3,
    "label": "evaluated",
}
TRAJECTORY: dict[str, Any] = {
    "marker": "o",
    "color": "black",
    "markersize": 1.8,
    "markeredgewidth": 0,
    "linewidth": 0.8,
    "path_effects": HALO,
    "zorder": 4,
    "label": "trajectory",
}
EDGED: dict[str, Any] = {"markeredgecolor": "black", "markeredgewidth": 0.6, "zorder": 6}
PATH_START: dict[str, Any] = {"marker": "s", "color": "white", "markersize": 4, **EDGED}
PATH_END: dict[str, Any] = {"marker": "*", "color": "#E69F00", "markersize": 6.5, **EDGED}
MODEL: dict[str, Any] = {"marker": "D", "color": "#E69F00", "markersize": 3.5, **EDGED}


def inside(panel: Panel, points: np.ndarray) -> np.ndarray:
    """The mask (m,) of the ``points`` (m, 2) that lie on the panel."""
    low = np.array([panel.x.min(), panel.y.min()])
    high = np.array([panel.x.max(), panel.y.max()])
    return np.all((points >= low) & (points <= high), axis=1)


def shows_center(panel: Panel) -> bool:
    """True if the centre is on the panel, and no mark is on the centre."""
    if panel.marks is not None:
        near = np.abs(panel.marks.points) / [np.ptp(panel.x), np.ptp(panel.y)] < 0.01
        if near.all(axis=1).any():
            return False
    return bool(inside(panel, np.zeros((1, 2))).all())


def draw_marks(ax: Axes, panel: Panel, points: bool = False) -> list[Line2D]:
    """Draw the centre and the panel's marks, and return legend entries for those without names.

    Args:
        points: whether to draw a tiny dot at every evaluated point.
    """
    keys = []
    if points and panel.evaluated is not None:
        j, i = np.nonzero(panel.evaluated)
        keys += ax.plot(panel.x[i], panel.y[j], gid="evaluated", **EVALUATED)
    if shows_center(panel):
        ax.plot([0], [0], linestyle="", zorder=5, gid="center", **CENTER)
    if panel.marks is not None and panel.marks.connected:
        keys += _draw_trajectory(ax, panel.marks)
    elif panel.marks is not None:
        _draw_models(ax, panel, panel.marks)
    return keys


def _draw_trajectory(ax: Axes, marks: Marks) -> list[Line2D]:
    """Draw the path, from an open square to a star."""
    x, y = marks.points.T
    return [
        *ax.plot(x, y, gid="trajectory", **TRAJECTORY),
        *ax.plot(x[:1], y[:1], linestyle="", gid="start", label="start", **PATH_START),
        *ax.plot(x[-1:], y[-1:], linestyle="", gid="end", label="end", **PATH_END),
    ]


def _draw_models(ax: Axes, panel: Panel, marks: Marks) -> None:
    """Draw diamonds, with names towards the middle of the panel."""
    shown = inside(panel, marks.points)
    ax.plot(*marks.points[shown].T, linestyle="", gid="models", **MODEL)
    middle = np.array([panel.x[[0, -1]].mean(), panel.y[[0, -1]].mean()])
    for number in np.flatnonzero(shown[: len(marks.names)]):
        point = marks.points[number]
        right, high = point > middle
        ax.annotate(
            marks.names[number], point, (-3 if right else 3, -3 if high else 3), textcoords="offset points",
            ha="right" if right else "left", va="top" if high else "bottom", fontsize=6, path_effects=HALO,
            zorder=7,
        )  # fmt: skip
