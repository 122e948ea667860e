"""Panels of one kind: as many in a row as there is room for, tick labels at the outer ones, one legend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sharpness.errors import UserError
from sharpness.plots.labels import legend_columns
from sharpness.plots.style import PAGE, figure_width, shown_figure

#: Minimum and maximum width of a panel in inches.
NARROW, WIDE = 1.05, 1.9
#: Maximum number of panels in a row.
ACROSS = 6


class SmallMultiples:
    """Axes for a number of panels: those given, or new ones with shared axes.

    Args:
        number: number of panels.
        axes: Axes to use; by default a new figure.
        columns: columns of the new figure; by default as many as there is room for.
        height: height of a row of the new figure in inches.

    Raises:
        UserError: the number of Axes is not that of the panels.
    """

    def __init__(
        self, number: int, axes: Axes | Sequence[Axes] | None, columns: int | None = None, height: float = 1.4
    ) -> None:
        self.figure: Figure | None = None
        if axes is not None:
            self.places = given_axes(axes, number)
            return
        self.columns = across(number, figure_width(PAGE), columns)
        rows = -(-number // self.columns)
        self.figure = shown_figure(min(PAGE, 0.8 + WIDE * self.columns), 0.7 + height * rows)
        grid = self.figure.subplots(rows, self.columns, sharex=True, sharey=True, squeeze=False)
        self.spare = list(grid.flat[number:])
        for empty in self.spare:
            empty.set_axis_off()
        self.places = list(grid.flat[:number])
        for i, ax in enumerate(self.places):
            # Including panels with an empty place below them.
            ax.tick_params(labelbottom=i + self.columns >= number, labelleft=i % self.columns == 0)

    def finish(self, xlabel: str, ylabel: str, title: str | None, legend: Sequence[Artist]) -> list[Axes]:
        """Label the axes once, explain what is drawn, and return the Axes.

        Raises:
            UserError: a title for panels on given Axes, which have their own titles.
        """
        if self.figure is None:
            if title is not None:
                raise UserError(f"title={title!r}: the panels have titles of their own; give it to their figure")
            self.places[0].set_ylabel(ylabel)
            self.places[(len(self.places) - 1) // 2].set_xlabel(xlabel)
            if legend:
                self.places[-1].legend(handles=list(legend))
            return self.places
        self.figure.supxlabel(xlabel, fontsize=8)
        self.figure.supylabel(ylabel, fontsize=8)
        if self.spare and legend:
            self.spare[-1].legend(handles=list(legend), loc="center", fontsize=6.5, handlelength=1.8)
        explain(self.figure, [] if self.spare else legend, title)
        return self.places


def explain(figure: Figure, legend: Sequence[Artist], title: str | None = None, fontsize: float = 7) -> None:
    """Draw a legend above all panels of a figure with a layout, in as few rows as fit, and a title."""
    if title:
        figure.suptitle(title, fontsize=8)
    if legend:
        room = 72 * figure.get_figwidth() - 2 * fontsize
        ncols = legend_columns([str(h.get_label()) for h in legend], room, fontsize)
        # A title and a legend above would overlap, because matplotlib makes room for each separately.
        look: dict[str, Any] = {"loc": "outside lower center" if title else "outside upper center"}
        look |= {"ncols": ncols, "columnspacing": 1.2, "handlelength": 2.2, "fontsize": fontsize}
        figure.legend(handles=list(legend), **look)


def given_axes(axes: Axes | Sequence[Axes], number: int) -> list[Axes]:
    """The Axes as a list.

    Raises:
        UserError: a wrong number of Axes.
    """
    places = list(np.ravel(np.asarray(axes, dtype=object)))
    if len(places) != number:
        raise UserError(f"{number} panels need {number} Axes, {len(places)} were given")
    return places


def across(number: int, width: float, columns: int | None = None, narrow: float = NARROW) -> int:
    """The number of columns for panels on a figure: rows of about equal length, with at most six panels.

    Args:
        number: number of panels.
        width: width of the figure in inches.
        columns: maximum instead of six, if there is room.
        narrow: minimum width of a panel in inches.

    >>> [across(n, 6.9) for n in (1, 6, 7, 8, 13)], [across(n, 3.3) for n in (2, 4, 5)], across(9, 14, columns=8)
    ([1, 6, 4, 4, 5], [2, 2, 3], 8)
    """
    most = max(1, min(columns or ACROSS, int(width / narrow)))
    rows = -(-number // most)
    return -(-number // rows) if columns is None else min(most, number)


def unique(handles: Sequence[Any]) -> list[Any]:
    """Entries of a legend, each label once."""
    return list({str(handle.get_label()): handle for handle in handles}.values())
