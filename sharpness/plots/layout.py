"""Panels on a new figure: rows of about equal length, labels of the axes once, a height that fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from sharpness.plots.frames import halved, height_ratio, surface_names, wrapped
from sharpness.plots.labels import width_of
from sharpness.plots.options import options_in_force
from sharpness.plots.panels import Panel
from sharpness.plots.small_multiples import across
from sharpness.plots.style import COLUMN, PAGE, figure_of, figure_width, shown_figure

#: Minimum width in inches of a panel on a figure of a given width; narrower rows are wrapped.
LEAST = 0.8
#: Inches between tick labels and the label of the axis, which a tight layout would not leave.
GAP = 0.06


class Grid(NamedTuple):
    """A new figure's Axes, row by row."""

    places: list[Axes]
    columns: int


def new_grid(rows: Mapping[str, Mapping[str, Panel]], kind: str) -> Grid:
    """Create Axes for every panel; those of planes are too high until :func:`fit_height`."""
    counts = [len(row) for row in rows.values()]
    beside = 0.75 + (0.2 if len(counts) > 1 else 0) + (0 if kind == "contour" else 0.75)
    asked = options_in_force().inches
    columns = across(max(counts), PAGE) if asked is None else across(max(counts), asked - beside, narrow=LEAST)
    lines = [-(-n // columns) for n in counts]
    down = sum(lines)
    width = figure_width(COLUMN if columns == 1 else min(PAGE, 1 + 1.9 * columns))
    each = (width - beside) / columns - 0.1
    surface = kind == "surface"
    ratios = [height_ratio(panel) for row in rows.values() for panel in row.values()]
    ratio = 0.98 if surface else max(1.0 if r is None else r for r in ratios)
    spare = 0.0 if surface or None in ratios else 0.5 + 0.4 * down
    below = 0.25 if surface else 0.0
    figure = shown_figure(width, 0.8 + below + down * (each * ratio + 0.1) + spare)
    if surface:
        named_in = 0 if "" in rows else 1 + any(" (" in name for name in rows)
        named = (0.11 + 0.14 * named_in) / width if named_in else 0.0  # the layout does not see text beside 3-D axes
        figure.set_layout_engine(
            "constrained", w_pad=0.01, h_pad=0.02, wspace=0.0, hspace=0.0, rect=(named, 0, 1 - named, 1)
        )
    grid = figure.subplots(down, columns, subplot_kw={"projection": "3d"} if surface else {}, squeeze=False)
    # Each row starts on a new line, and its last line may be shorter than the others.
    begins = np.cumsum([0, *lines[:-1]]) * columns
    places = [ax for begin, n in zip(begins, counts, strict=True) for ax in grid.flat[begin : begin + n]]
    for ax in set(grid.flat) - set(places):
        ax.remove()
    return Grid(places, columns)


def name_once(places: Sequence[Axes], xlabel: str, ylabel: str, kind: str) -> None:
    """Label the axes of all panels once: below and left of them, or for surfaces in one line below."""
    figure = figure_of(places)
    if kind == "surface":
        room = 72 / figure.dpi * figure.bbox.width
        text = surface_names(xlabel, ylabel)
        text = halved(text) if width_of([text], 7) > 0.95 * room else text
        figure.supxlabel(text, fontsize=float(min(7, 7 * 0.95 * room / max(width_of([text], 7), 1))))
        return
    x = [edge for ax in places for edge in (ax.get_position().x0, ax.get_position().x1)]
    y = [edge for ax in places for edge in (ax.get_position().y0, ax.get_position().y1)]
    room = 72 / figure.dpi * np.array(figure.bbox.size) * [np.ptp(x), np.ptp(y)]
    figure.supxlabel(wrapped(xlabel, room[0]), fontsize=8)
    figure.supylabel(wrapped(ylabel, room[1]), fontsize=8, multialignment="center")


def draw_once(places: Sequence[Axes]) -> None:
    """Draw surfaces once to place their tick labels: before 3.11, Matplotlib measures these where they were last drawn,
    and gives up the layout if they never were.
    """
    if matplotlib.__version_info__ < (3, 11):
        figure = figure_of(places, outermost=True)
        engine = figure.get_layout_engine()
        figure.set_layout_engine("none")
        figure.draw_without_rendering()
        figure.set_layout_engine(engine)


def fit_height(places: Sequence[Axes]) -> None:
    """Remove the height that panels with equal scales do not use."""
    figure = figure_of(places, outermost=True)
    engine = figure.get_layout_engine()
    for _ in range(2):  # names of rows are placed after the tick labels
        engine.execute(figure)
    width, height = figure.get_size_inches()
    spare: dict[int, list[float]] = {}
    for ax in places:
        place, needed = ax.get_subplotspec(), ax.get_tightbbox()
        assert place is not None and needed is not None
        cell = ax.get_position(original=True).height * height
        spare.setdefault(place.rowspan.start, []).append(cell - needed.height / figure.dpi)
    figure.set_size_inches(width, height + GAP - sum(max(0.0, min(row)) for row in spare.values()))
    figure.set_layout_engine("compressed")
