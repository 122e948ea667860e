"""Curves along a line: of several models, or of several subsets of the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from sharpness.errors import UserError
from sharpness.plots.labels import grey, legend_above
from sharpness.plots.style import COLORS, PAGE, color, new_axes, shown_figure, style
from sharpness.plots.trainings import draw_spread_band, trainings_key

#: x (n,) and y (n,).
Curve = tuple[np.ndarray, np.ndarray]
#: Of curves that are subsets of one model's classes, whose first one is of all of them.
SUBSET_COLORS = (COLORS[-1], *COLORS[:-1])
#: Where a curve is not finite.
NOT_FINITE: dict[str, Any] = {"linestyle": "", "marker": "x", "markersize": 3, "markeredgewidth": 0.8}


def plot_lines(
    curves: Mapping[str, Curve],
    ax: Axes | None = None,
    *,
    title: str | None = None,
    xlabel: str = "Distance along the direction",
    ylabel: str = "Loss",
    log: bool = False,
    legend: bool = True,
    marks: Sequence[tuple[str, float]] = (),
    colors: Sequence[str] | None = None,
    trainings: Mapping[str, np.ndarray] | None = None,
) -> Axes:
    """Draw ``{label: (x (n,), y (n,))}``.

    Values that are not finite leave a gap, and a cross at the upper end of the picture. On a logarithmic axis a curve
    leaves through the bottom where it is zero.

    Args:
        marks: names and positions x of models, which have a line each, with their name at its top.
        colors: of the curves; by default those of models.
        trainings: ``{label: (S, n)}`` curves of models that were trained several times: a band of one standard
            deviation around their mean, which is the curve.
    """
    with style():
        ax = new_axes(ax)
        handles = _draw(ax, curves, log, marks, colors, trainings)
        ax.set(xlabel=xlabel, ylabel=ylabel)
        ax.set_title(title or "")
        ax.locator_params(axis="x", nbins=6, steps=[1, 2, 5, 10])
        if legend:
            legend_above(ax, title, handles[len(curves) :])
    return ax


def plot_line_panels(
    panels: Mapping[str, Mapping[str, Curve]],
    axes: Axes | Sequence[Axes] | None = None,
    *,
    xlabel: str = "Distance along the direction",
    ylabel: str = "Loss",
    log: bool = False,
    legend: bool = True,
    marks: Sequence[tuple[str, float]] = (),
    colors: Sequence[str] = SUBSET_COLORS,
    trainings: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> list[Axes]:
    """A panel of :func:`plot_lines` for each ``{title: curves}``, all with the same limits, and one legend.

    Raises:
        UserError: another number of Axes than panels.
    """
    number = len(panels)
    with style():
        if axes is None:
            figure = shown_figure(min(PAGE, 1 + 1.6 * number), 2.2)
            places = list(figure.subplots(1, number, squeeze=False)[0])
        else:
            places = list(np.ravel(np.asarray(axes, dtype=object)))
        if len(places) != number:
            raise UserError(f"{number} panels need {number} Axes, {len(places)} were given")
        handles: dict[str, Any] = {}
        for ax, (title, curves) in zip(places, panels.items(), strict=True):
            drawn = _draw(ax, curves, log, marks, colors, (trainings or {}).get(title))
            handles |= {str(handle.get_label()): handle for handle in drawn}
            ax.set_title(title)
            ax.locator_params(axis="x", nbins=4, steps=[1, 2, 5, 10])
        ends = [ax.get_ylim() for ax in places]
        for ax in places:
            ax.set_ylim(min(low for low, _ in ends), max(high for _, high in ends))
            ax.tick_params(labelleft=ax is places[0])
        places[0].set_ylabel(ylabel)
        if axes is None and number % 2 == 0:
            figure.supxlabel(xlabel, fontsize=8)
        else:
            places[(number - 1) // 2].set_xlabel(xlabel)
        if legend and axes is None:
            figure.legend(handles=list(handles.values()), loc="outside upper center", ncols=min(len(handles), 6))
        elif legend:
            places[-1].legend(handles=list(handles.values()))
    return places


def _draw(
    ax: Axes,
    curves: Mapping[str, Curve],
    log: bool,
    marks: Sequence[tuple[str, float]],
    colors: Sequence[str] | None,
    trainings: Mapping[str, np.ndarray] | None = None,
) -> list[Any]:
    """Curves, crosses and marks; returned are the entries of a legend."""
    handles: list[Any] = []
    lost = False
    for i, (label, (x, y)) in enumerate(curves.items()):
        shade = color(i) if colors is None else colors[i % len(colors)]
        handles += ax.plot(x, np.where(np.isfinite(y), y, np.nan), color=shade, label=label)
        if trainings is not None and label in trainings:
            draw_spread_band(ax, x, trainings[label], shade)
        missing = ~np.isfinite(y)
        if missing.any():
            lost = True
            at_top = ax.get_xaxis_transform()
            ax.plot(
                x[missing], np.full(missing.sum(), 0.98 - 0.04 * i), color=shade, transform=at_top, gid="not finite",
                **NOT_FINITE,
            )  # fmt: skip
    if log:
        ax.set_yscale("log")
    for name, position in marks:
        ax.axvline(position, color="0.6", linewidth=0.6, linestyle=(0, (4, 2)), zorder=0.5, gid="mark")
        ax.annotate(
            name, (position, 1), (2, 0), xycoords=("data", "axes fraction"), textcoords="offset points", va="top",
            fontsize=6, color="0.3",
        )  # fmt: skip
    handles += trainings_key((trainings or {}).values(), dots=False)
    return [*handles, grey("not finite", **NOT_FINITE)] if lost else handles
