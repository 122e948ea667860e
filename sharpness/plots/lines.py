"""Curves along a line: of several models, or of several subsets of the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np
from matplotlib.axes import Axes

from sharpness.keywords import typed_keywords
from sharpness.plots.labels import grey, set_texts
from sharpness.plots.options import AxisOptions
from sharpness.plots.scales import set_log
from sharpness.plots.small_multiples import SmallMultiples, unique
from sharpness.plots.style import COLORS, colors_of, dash, new_axes, style
from sharpness.plots.trainings import draw_spread_band, trainings_key

#: x (n,) and y (n,).
Curve = tuple[np.ndarray, np.ndarray]
#: Colours of curves of subsets of one model's classes; the first is for all samples.
SUBSET_COLORS = (COLORS[-1], *COLORS[:-1])
#: Style of points that are not finite.
NOT_FINITE: dict[str, Any] = {"linestyle": "", "marker": "x", "markersize": 3, "markeredgewidth": 0.8}


@typed_keywords(xlabel="Distance along the direction", ylabel="Loss")
def plot_lines(
    curves: Mapping[str, Curve],
    ax: Axes | None = None,
    *,
    marks: Sequence[tuple[str, float]] = (),
    colors: Sequence[str] = COLORS,
    trainings: Mapping[str, np.ndarray] | None = None,
    **options: Unpack[AxisOptions],
) -> Axes:
    """Draw ``{label: (x (n,), y (n,))}``, each curve with its own colour and line style.

    Values that are not finite leave a gap, with a cross at the upper end of the picture.

    Args:
        marks: names and positions x of models, each drawn as a line with the name at its top.
        colors: colours of the curves; by default those of models.
        trainings: ``{label: (S, n)}`` curves of models that were trained several times: a band of one standard
            deviation around their mean, which is the curve.
        options: see :class:`~sharpness.plots.options.AxisOptions`.
    """
    with style():
        ax = new_axes(ax)
        handles = _draw(ax, curves, marks, colors, trainings)
        if options["log"]:
            set_log(ax, "y", [y for _, y in curves.values()])
        ax.locator_params(axis="x", nbins=6, steps=[1, 2, 5, 10])
        set_texts(ax, options, handles[len(curves) :])
    return ax


@typed_keywords(xlabel="Distance along the direction", ylabel="Loss")
def plot_line_panels(
    panels: Mapping[str, Mapping[str, Curve]],
    axes: Axes | Sequence[Axes] | None = None,
    *,
    marks: Sequence[tuple[str, float]] = (),
    colors: Sequence[str] = SUBSET_COLORS,
    trainings: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    **options: Unpack[AxisOptions],
) -> list[Axes]:
    """Draw a panel of :func:`plot_lines` for each ``{title: curves}``, with common limits and one legend.

    Raises:
        UserError: the number of Axes is not that of the panels.
    """
    with style():
        multiples = SmallMultiples(len(panels), axes, height=1.5)
        handles: list[Any] = []
        for ax, (name, curves) in zip(multiples.places, panels.items(), strict=True):
            handles += _draw(ax, curves, marks, colors, (trainings or {}).get(name))
            ax.set_title(name)
            ax.locator_params(axis="x", nbins=4, steps=[1, 2, 5, 10])
        if options["log"]:
            everything = [y for curves in panels.values() for _, y in curves.values()]
            for ax in multiples.places:
                set_log(ax, "y", everything)
        # Last, because a logarithmic axis changes the limits.
        ends = [ax.get_ylim() for ax in multiples.places]
        for ax in multiples.places:
            ax.set_ylim(min(low for low, _ in ends), max(high for _, high in ends))
        for ax in multiples.places[1:] if multiples.figure is None else []:
            ax.tick_params(labelleft=False)
        keys = unique(handles) if options["legend"] else []
        return multiples.finish(options["xlabel"] or "", options["ylabel"], options["title"], keys)


def _draw(
    ax: Axes,
    curves: Mapping[str, Curve],
    marks: Sequence[tuple[str, float]],
    colors: Sequence[str],
    trainings: Mapping[str, np.ndarray] | None = None,
) -> list[Any]:
    """Draw curves, crosses and marks, and return the legend entries."""
    handles: list[Any] = []
    lost = False
    for i, ((label, (x, y)), shade) in enumerate(zip(curves.items(), colors_of(list(curves), colors), strict=True)):
        handles += ax.plot(x, np.where(np.isfinite(y), y, np.nan), color=shade, linestyle=dash(i), label=label)
        if trainings is not None and label in trainings:
            draw_spread_band(ax, x, trainings[label], shade)
        missing = ~np.isfinite(y)
        if missing.any():
            lost = True
            # At the top of the panel, each model a little lower, so that all crosses are visible.
            at_top = ax.get_xaxis_transform()
            ax.plot(
                x[missing], np.full(missing.sum(), 0.98 - 0.04 * i), color=shade, transform=at_top, gid="not finite",
                **NOT_FINITE,
            )  # fmt: skip
    for name, position in marks:
        ax.axvline(position, color="0.6", linewidth=0.6, linestyle=(0, (4, 2)), zorder=0.5, gid="mark")
        ax.annotate(
            name, (position, 1), (2, 0), xycoords=("data", "axes fraction"), textcoords="offset points", va="top",
            fontsize=6, color="0.3",
        )  # fmt: skip
    handles += trainings_key((trainings or {}).values(), dots=False)
    return [*handles, grey("not finite", **NOT_FINITE)] if lost else handles
