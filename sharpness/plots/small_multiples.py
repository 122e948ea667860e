"""Panels of one kind: as many across as there is room for, numbers at the outer ones, one legend."""

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

#: Inches that a panel needs at least, and has at most.
NARROW, WIDE = 1.05, 1.9
#: Panels in a row at most.
ACROSS = 6


class SmallMultiples:
    """Axes for a number of panels: those given, or new ones with shared axes.

    Args:
        number: of panels.
        axes: to use; a new figure unless given.
        columns: of the new figure; as many as there is room for unless given.
        height: of a row of the new figure in inches.

    Raises:
        UserError: another number of Axes than panels.
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
            # Also of panels that have an empty place below them.
            ax.tick_params(labelbottom=i + self.columns >= number, labelleft=i % self.columns == 0)

    def finish(self, xlabel: str, ylabel: str, title: str | None, legend: Sequence[Artist]) -> list[Axes]:
        """Name the axes once and explain what is drawn; returns the Axes.

        Raises:
            UserError: a title for panels on Axes that were given, each of which has its own.
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
    """Put a legend above all panels of a figure that is laid out, in as few rows as fit, and a title above that."""
    if title:
        figure.suptitle(title, fontsize=8)
    if legend:
        room = 72 * figure.get_figwidth() - 2 * fontsize
        ncols = legend_columns([str(h.get_label()) for h in legend], room, fontsize)
        # A title and a legend above would stand on each other: matplotlib makes room for each by itself.
        look: dict[str, Any] = {"loc": "outside lower center" if title else "outside upper center"}
        look |= {"ncols": ncols, "columnspacing": 1.2, "handlelength": 2.2, "fontsize": fontsize}
        figure.legend(handles=list(legend), **look)


def given_axes(axes: Axes | Sequence[Axes], number: int) -> list[Axes]:
    """The Axes as a list.

    Raises:
        UserError: another number of Axes was given.
    """
    places = list(np.ravel(np.asarray(axes, dtype=object)))
    if len(places) != number:
        raise UserError(f"{number} panels need {number} Axes, {len(places)} were given")
    return places


def across(number: int, width: float, columns: int | None = None, narrow: float = NARROW) -> int:
    """Columns for panels on a figure of some width: rows about equally long, of six panels at most.

    Args:
        columns: in place of six, unless there is room for fewer.
        narrow: inches that a panel needs.

    >>> [across(n, 6.9) for n in (1, 6, 7, 8, 13)], [across(n, 3.3) for n in (2, 4, 5)], across(9, 14, columns=8)
    ([1, 6, 4, 4, 5], [2, 2, 3], 8)
    """
    most = max(1, min(columns or ACROSS, int(width / narrow)))
    rows = -(-number // most)
    return -(-number // rows) if columns is None else min(most, number)


def unique(handles: Sequence[Any]) -> list[Any]:
    """Entries of a legend, each label once."""
    return list({str(handle.get_label()): handle for handle in handles}.values())
