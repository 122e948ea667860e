"""Around the picture of a plane: limits, ticks that do not run into each other, names of axes and rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from mpl_toolkits.mplot3d.axes3d import Axes3D

from sharpness.plots.labels import size_of, width_of
from sharpness.plots.levels import Levels, level_labels
from sharpness.plots.panels import Panel, cell_edges

#: Sides whose lengths differ by more than this are not drawn to one scale.
OBLONG = 2.5
#: Points below which a panel is narrow.
NARROW = 100


def inner_ticks(low: float, high: float, narrow: bool) -> np.ndarray:
    """Round numbers well inside, so that the last one stays clear of the next panel's first; two where it is narrow.

    >>> inner_ticks(-1.0, 1.0, narrow=False).tolist()
    [-0.5, 0.0, 0.5]
    >>> inner_ticks(-1.0, 1.0, narrow=True).tolist()
    [-0.5, 0.5]
    """
    margin = 0.06 * (high - low)
    for bins in (4, 5, 6, 8):
        ticks = np.asarray(MaxNLocator(bins, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high))
        ticks = ticks[(ticks >= low + margin) & (ticks <= high - margin)]
        if len(ticks) >= 2:
            break
    return ticks[[0, -1]] if narrow and len(ticks) > 2 else ticks


def height_ratio(panel: Panel) -> float | None:
    """Height over width of a panel whose axes have equal scales; None if it is too oblong for these."""
    ratio = float(np.ptp(panel.y) / np.ptp(panel.x))
    return ratio if 1 / OBLONG <= ratio <= OBLONG else None


def frame_plane(ax: Axes, panel: Panel, whole: bool = False) -> None:
    """Limits at the outermost points, or at the ends of their cells if ``whole``; equal scales unless oblong."""
    x, y = np.sort(cell_edges(panel.x, whole)), np.sort(cell_edges(panel.y, whole))
    narrow = size_of(ax)[0] < NARROW
    ax.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    ax.set_xticks(inner_ticks(x[0], x[-1], narrow))
    ax.set_yticks(inner_ticks(y[0], y[-1], False))
    ax.set_aspect("auto" if height_ratio(panel) is None else "equal")
    for spine in ax.spines.values():
        spine.set_visible(True)


def frame_surface(ax: Axes3D, panel: Panel, levels: Levels) -> None:
    """The box around a surface: common heights, few ticks, no walls."""
    narrow = size_of(ax)[0] < 1.4 * NARROW
    floor, top = levels.heights(levels.edges[[0, -1]])
    ax.set(xlim=panel.x[[0, -1]], ylim=panel.y[[0, -1]], zlim=(floor, top))
    ax.view_init(elev=28, azim=-60)
    ax.tick_params(pad=-3.5, labelsize=5.5 if narrow else 6)
    ax.set_box_aspect((1, 1, 0.8), zoom=1.08 if narrow else 0.93)
    ax.set_xticks(inner_ticks(panel.x.min(), panel.x.max(), narrow))
    ax.set_yticks(inner_ticks(panel.y.min(), panel.y.max(), narrow))
    ax.zaxis.set_major_locator(MaxNLocator(4, prune="both"))
    if levels.log:
        powers = np.arange(np.ceil(floor), np.floor(top) + 1)
        powers = powers[:: max(1, -(-len(powers) // 4))]
        ticks = powers if len(powers) >= 2 else np.linspace(floor, top, 5)[1:-1]
        texts = [f"$10^{{{p:.0f}}}$" for p in powers] if len(powers) >= 2 else level_labels(10**ticks)
        ax.set_zticks(ticks, texts)
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.pane.set_facecolor((1, 1, 1, 0))


def name_axes(places: Sequence[Axes], columns: int, xlabel: str, ylabel: str, bottom: bool) -> None:
    """Names and numbers below the last row of panels, if it is at the ``bottom``, and left of the first column.

    An odd number of columns has the lower name in the middle only; a unit in brackets wraps where there is no room.
    Narrow surfaces have no room for names.
    """
    middle = columns // 2 if columns % 2 else None
    for number, ax in enumerate(places):
        first, last = number % columns == 0, number + columns >= len(places)
        width, height = size_of(ax)
        if isinstance(ax, Axes3D):
            if width >= 1.4 * NARROW:
                ax.set_xlabel(_wrapped(xlabel, 0), labelpad=-2, fontsize=7, linespacing=1)
                ax.set_ylabel(_wrapped(ylabel, 0), labelpad=-2, fontsize=7, linespacing=1)
            continue
        ax.tick_params(labelleft=first, labelbottom=last and bottom)
        if last and bottom and middle is None:
            ax.set_xlabel(_wrapped(xlabel, width))
        elif last and bottom and number % columns == middle:
            ax.set_xlabel(xlabel)
        if first:
            ax.set_ylabel(_wrapped(ylabel, min(width, height)))


def name_row(ax: Axes, name: str) -> None:
    """A name for the row that ``ax`` begins, upright on its left."""
    if isinstance(ax, Axes3D):
        ax.text2D(-0.04, 0.5, name, transform=ax.transAxes, rotation=90, ha="right", va="center", weight="bold")
        return
    ax.annotate(
        name, (0, 0.5), (-4, 0), xycoords=(ax.yaxis.label, "axes fraction"), textcoords="offset points", rotation=90,
        ha="right", va="center", weight="bold", annotation_clip=False,
    )  # fmt: skip


def _wrapped(text: str, room: float, fontsize: float = 8) -> str:
    return text.replace(" (", "\n(", 1) if width_of([text], fontsize) > 1.05 * room else text
