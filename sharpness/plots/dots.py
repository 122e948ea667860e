"""Dots with intervals: several quantities of the rows of a table, each in its own panel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullLocator

from sharpness.errors import UserError
from sharpness.plots.labels import OPEN, grey
from sharpness.plots.small_multiples import explain
from sharpness.plots.style import COLUMN, colors_of, marker, shown_figure, style

#: Heights in inches of one series in one row, and of the margins around the panels.
STEP, AROUND = 0.062, 0.75
#: Style of missing values.
MISSING: dict[str, Any] = {"linestyle": "", "marker": "x", "markersize": 3, "markeredgewidth": 0.8}


class DotColumn(NamedTuple):
    """A column of panels with a common scale.

    ``panels[title][series]`` is (3, R): value, lower and upper end for every row. A value without a finite interval is
    an open marker; a value that is not finite is a cross at the left end.
    """

    xlabel: str
    panels: Mapping[str, Mapping[str, np.ndarray]]
    reference: float | None = None  # position of a line
    log: bool = False


def plot_dots(columns: Sequence[DotColumn], rows: Sequence[str], width: float = COLUMN) -> list[Axes]:
    """Draw the panels of all columns, with the names of the R rows on the left; the first row is on top.

    Raises:
        UserError: no row, no column, a column without a panel, or one with more panels than the first column, which
            shows the names of the rows.
    """
    heights = [len(column.panels) for column in columns]
    if not rows or not heights or not 0 < min(heights) <= max(heights) == heights[0]:
        raise UserError(
            f"{len(rows)} rows, columns of {heights} panels: give a row, and columns that are no higher than the first"
        )
    series = list(next(iter(columns[0].panels.values())))
    with style():
        tall = max(len(series) * STEP + 0.05, 0.15) * len(rows) + 0.22
        figure = shown_figure(width, heights[0] * tall + AROUND)
        axes = figure.subplots(heights[0], len(columns), sharex="col", sharey=True, squeeze=False)
        # Legend entries by label, because missing values may be in any one or in several panels.
        keys: dict[str, Line2D] = {}
        for places, column in zip(axes.T, columns, strict=True):
            for ax in places[len(column.panels) :]:
                ax.remove()
            places = places[: len(column.panels)]
            places[-1].tick_params(labelbottom=True)  # by default, only the bottom row has labels
            for ax, (title, numbers) in zip(places, column.panels.items(), strict=True):
                keys |= {str(key.get_label()): key for key in _draw(ax, numbers, column)}
                ax.set_title(title, loc="left", pad=2)
            _scale(places, column)
        for ax in axes[:, 0]:
            ax.set_yticks(range(len(rows)), rows)
            ax.set_ylim(len(rows) - 0.5, -0.5)  # downwards: the first row is on top
        shown = [ax for ax in axes.flat if ax.figure is not None]
        for ax in shown:
            ax.tick_params(axis="y", length=0)
            for edge in np.arange(1, len(rows)) - 0.5:
                ax.axhline(edge, color="0.9", linewidth=0.5, zorder=0)
        figure.align_xlabels()
        handles = [*axes[0, 0].get_legend_handles_labels()[0], *keys.values()]
        explain(figure, handles)
    return shown


def _draw(ax: Axes, numbers: Mapping[str, np.ndarray], column: DotColumn) -> list[Line2D]:
    """Draw the series of a panel below each other within their rows; return legend entries for missing values."""
    if column.reference is not None:
        ax.axvline(column.reference, color="0.45", linewidth=0.7, zorder=0.5, gid="reference")
    keys, shades = [], colors_of(list(numbers))
    for i, (label, (value, low, high)) in enumerate(numbers.items()):
        # Series without a value keep their place, so that each has the same place in every row.
        at = np.arange(len(value)) + (i - (len(numbers) - 1) / 2) * 0.76 / len(numbers)
        known, bounded = np.isfinite(value), np.isfinite(low) & np.isfinite(high)
        ax.hlines(at[bounded], low[bounded], high[bounded], color=shades[i], linewidth=0.9)
        ax.plot(value, at, marker(i), color=shades[i], markersize=3.2, markeredgewidth=0, label=label)
        if (alone := known & ~bounded).any():
            ax.plot(value[alone], at[alone], marker(i), color=shades[i], markersize=3.2, gid="no spread", **OPEN)
            keys.append(grey("open: one seed", linestyle="", marker="o", **OPEN))
        # At the edge of the Axes: inside, a cross could be mistaken for a value.
        if not known.all():
            at_left = np.full((~known).sum(), 0.03)
            look: dict[str, Any] = {"color": shades[i], "transform": ax.get_yaxis_transform(), "gid": "no value"}
            ax.plot(at_left, at[~known], **look, **MISSING)
            keys.append(grey("no value", **MISSING))
    return keys


def _scale(places: Sequence[Axes], column: DotColumn) -> None:
    """The shared x axis of a column, with few ticks."""
    last = places[-1]
    last.set_xlabel(column.xlabel, fontsize=7)
    if not column.log:
        last.margins(x=0.08)
        last.locator_params(axis="x", nbins=5, steps=[1, 2, 5, 10])
        return
    last.set_xscale("log")
    decades = np.ptp(np.log10(last.get_xlim()))
    subs = (1, 2, 5) if decades < 1.2 else (1, 3) if decades < 2.4 else (1,)
    last.xaxis.set_major_locator(LogLocator(subs=subs, numticks=6))
    last.xaxis.set_major_formatter(LogFormatterSciNotation() if decades > 4.5 else lambda x, _: f"{x:g}")
    last.xaxis.set_minor_locator(NullLocator())
