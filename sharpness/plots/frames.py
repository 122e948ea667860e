"""Frame of a plane: limits, ticks that do not overlap, names of axes and rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import MaxNLocator
from mpl_toolkits.mplot3d.axes3d import Axes3D

from sharpness.plots.labels import size_of, width_of
from sharpness.plots.levels import Levels, decade_ticks, level_labels
from sharpness.plots.panels import Panel, cell_edges

#: Panels with a larger ratio of sides than this are not drawn with equal scales.
OBLONG = 2.5
#: Width in points below which a panel is narrow.
NARROW = 100


def inner_ticks(low: float, high: float, narrow: bool) -> np.ndarray:
    """Ticks at round numbers away from the ends, so that they stay clear of the next panel's; two in a narrow one.

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
    """The ratio of height to width of a panel with equal scales; None if it is too oblong for equal scales."""
    ratio = float(np.ptp(panel.y) / np.ptp(panel.x))
    return ratio if 1 / OBLONG <= ratio <= OBLONG else None


def frame_plane(ax: Axes, panel: Panel, whole: bool = False) -> None:
    """Set limits to the outermost points, or to the ends of their cells if ``whole``; equal scales unless oblong."""
    x, y = np.sort(cell_edges(panel.x, whole)), np.sort(cell_edges(panel.y, whole))
    ax.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    ax.set_aspect("auto" if height_ratio(panel) is None else "equal")
    ax.apply_aspect()
    ax.tick_params(labelsize=7)
    narrow = size_of(ax)[0] < NARROW
    set_ticks(ax.xaxis, inner_ticks(x[0], x[-1], narrow))
    set_ticks(ax.yaxis, inner_ticks(y[0], y[-1], False))
    for spine in ax.spines.values():
        spine.set_visible(True)


def set_ticks(axis: Axis, ticks: np.ndarray) -> None:
    """Set ticks with any power of ten at each number, because at the end of the axis it would cover other text."""
    largest = float(np.abs(ticks).max(initial=0))
    plain = 1e-3 <= largest < 1e5 or not largest
    axis.set_ticks(ticks, None if plain else level_labels(ticks))


def frame_surface(ax: Axes3D, panel: Panel, levels: Levels) -> None:
    """Set up the box around a surface: common heights, few ticks, no walls."""
    narrow = size_of(ax)[0] < 1.4 * NARROW
    floor, top = levels.heights(levels.edges[[0, -1]])
    fontsize = 5.5 if narrow else 6
    ax.set(xlim=np.sort(panel.x[[0, -1]]), ylim=np.sort(panel.y[[0, -1]]), zlim=(floor, top))
    ax.view_init(elev=28, azim=-60)
    ax.tick_params(pad=-3.5, labelsize=fontsize)
    ax.set_box_aspect((1, 1, 0.8), zoom=1.08 if narrow else 0.93)
    set_ticks(ax.xaxis, inner_ticks(panel.x.min(), panel.x.max(), narrow))
    set_ticks(ax.yaxis, inner_ticks(panel.y.min(), panel.y.max(), narrow))
    if levels.log:
        ticks, texts = decade_ticks(levels.edges[0], levels.edges[-1], most=4)
        ticks = np.log10(ticks)
    else:
        ticks = np.asarray(MaxNLocator(4, prune="both").tick_values(floor, top))
        ticks = ticks[(ticks > floor) & (ticks < top)]
        texts = level_labels(ticks)
    ax.set_zticks(ticks, texts)
    # Numbers are centred on their position; without padding, long ones would overlap the axis.
    ax.tick_params(axis="z", pad=-4 + width_of(texts, fontsize) / 3)
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.pane.set_facecolor((1, 1, 1, 0))


def number_axes(places: Sequence[Axes], columns: int, bottom: bool) -> None:
    """Show tick labels below the last row of panels, if it is at the ``bottom``, and left of the first column."""
    for number, ax in enumerate(places):
        if not isinstance(ax, Axes3D):
            last = number + columns >= len(places)
            ax.tick_params(labelleft=number % columns == 0, labelbottom=last and bottom)


def name_axes(places: Sequence[Axes], columns: int, xlabel: str, ylabel: str, bottom: bool) -> None:
    """Label axes below the last row of panels, if it is at the ``bottom``, and left of the first column.

    If there is no room for a label below each panel, one is in the middle of the row; a unit in brackets wraps if that
    helps. Narrow surfaces have no room for labels.
    """
    for number, ax in enumerate(places):
        column, last = number % columns, number + columns >= len(places)
        width, height = size_of(ax)
        if isinstance(ax, Axes3D):
            if width >= 1.4 * NARROW:
                ax.set_xlabel(wrapped(xlabel, 0), labelpad=-2, fontsize=7, linespacing=1)
                ax.set_ylabel(wrapped(ylabel, 0), labelpad=-2, fontsize=7, linespacing=1)
            continue
        below = wrapped(xlabel, width)
        each = columns % 2 == 0 and width_of([below], 8) <= 1.15 * width
        if last and bottom and each:
            ax.set_xlabel(below, fontsize=8)
        elif last and bottom and column == (columns - 1) // 2:
            gap = 0.0 if columns % 2 else _pitch(places) / 2  # between the two panels in the middle
            ax.set_xlabel(xlabel, x=0.5 + gap, fontsize=8)
        if column == 0:
            ax.set_ylabel(wrapped(ylabel, min(width, height)), fontsize=8)


def _pitch(places: Sequence[Axes]) -> float:
    """The distance from a panel to the next, in widths of a panel."""
    one, other = (ax.get_position(original=True) for ax in places[:2])
    return float((other.x0 - one.x0) / one.width)


def surface_names(xlabel: str, ylabel: str) -> str:
    """Names of the horizontal axes of surfaces in one line, with a common unit only once.

    >>> surface_names("Direction 1 (in filter norms)", "Direction 2 (in filter norms)")
    'Horizontal axes: direction 1 in front, direction 2 on the right (in filter norms)'
    """
    (x, _, unit), (y, _, other) = (label.partition(" (") for label in (xlabel, ylabel))
    x, y, unit = (x, y, f" ({unit}") if unit and unit == other else (xlabel, ylabel, "")
    named = [f"{lower_first(n)} {where}" for n, where in ((x, "in front"), (y, "on the right")) if n]
    return f"Horizontal axes: {', '.join(named)}{unit}" if named else ""


def lower_first(text: str) -> str:
    """Convert a label for use within a sentence; acronyms and symbols stay.

    >>> lower_first("Loss"), lower_first("PCA 1")
    ('loss', 'PCA 1')
    """
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def title_panel(ax: Axes, title: str, y: float | None = None) -> None:
    """Set a title no wider than the panel: if it does not fit, on two lines, then in a smaller font."""
    room = 1.15 * size_of(ax)[0]
    if width_of([title], 8) > room:
        title = halved(title)
    ax.set_title(title, y=y, fontsize=float(np.clip(8 * room / max(width_of([title], 8), 1), 5, 8)), linespacing=1)


def halved(text: str) -> str:
    """Break a text into two lines of about equal length.

    >>> halved("LDAM-DRW + SAM")
    'LDAM-DRW\\n+ SAM'
    """
    spaces = [i for i, letter in enumerate(text) if letter == " "]
    at = min(spaces, key=lambda i: abs(2 * i - len(text)), default=len(text))
    return f"{text[:at]}\n{text[at + 1 :]}".rstrip()


def name_row(ax: Axes, name: str) -> None:
    """Write the name of a row upright on the left of its first panel ``ax``; a unit in brackets wraps."""
    bold = 1.15  # bold letters are wider than the measured ones
    name = wrapped(name, size_of(ax)[1] / bold)
    fontsize = float(np.clip(8 * size_of(ax)[1] / max(bold * width_of([name], 8), 1), 5, 8))
    look: dict[str, Any] = {
        "rotation": 90, "ha": "right", "va": "center", "weight": "bold", "fontsize": fontsize, "linespacing": 1.1,
        "multialignment": "center",
    }  # fmt: skip
    if isinstance(ax, Axes3D):
        ax.text2D(-0.04, 0.5, name, transform=ax.transAxes, **look)
        return
    ax.annotate(
        name, (0, 0.5), (-4, 0), xycoords=(ax.yaxis.label, "axes fraction"), textcoords="offset points",
        annotation_clip=False, **look,
    )  # fmt: skip


def wrapped(text: str, room: float) -> str:
    """Move the unit in brackets to a second line if the text is wider than ``room`` points."""
    return text.replace(" (", "\n(", 1) if width_of([text], 8) > 1.05 * room else text
