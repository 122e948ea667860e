"""Spread of a number over draws, with models side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import Any, Unpack

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from sharpness.keywords import typed_keywords
from sharpness.plots.labels import grey, legend_columns, set_texts, size_of
from sharpness.plots.options import AxisOptions
from sharpness.plots.scales import set_log
from sharpness.plots.style import COLUMN, PAGE, colors_of, dash, marker, new_axes, style
from sharpness.plots.trainings import BAR, draw_spread_band, spread_ends, trainings_key

#: Maximum number of trainings that can be distinguished in a column of a paper.
LEGIBLE = 8
#: Explanation of a picture of single trainings.
ONE_COLUMN = "dots: draws, bar: their mean, line: their range"
BAND = "band: ± one deviation of draws"


def plot_spread(
    draws: Mapping[str, np.ndarray],
    ax: Axes | None = None,
    *,
    base: Mapping[str, float | np.ndarray] | None = None,
    title: str | None = None,
    xlabel: str | None = None,
    ylabel: str = "",
    log: bool = False,
    legend: bool = True,
) -> Axes:
    """Draw ``{label: (D,)}``: a point per draw, a line from the smallest to the largest, the mean as a bar.

    Several trainings of a model, (S, D), are side by side; a wide bar is the mean of their means, and a pale box around
    it one standard deviation over the trainings. ``base``, a number or (S,), is the value without perturbation, marked
    by a black dash. By default, ``xlabel`` explains dots and bars, or the legend if a model has several trainings.
    """
    number = sum(len(np.atleast_2d(values)) for values in draws.values())
    with style():
        ax = new_axes(ax, width=COLUMN if number <= LEGIBLE else PAGE)
        shades = colors_of(list(draws))
        for i, (label, values) in enumerate(draws.items()):
            rows = np.atleast_2d(values)
            # The mean of means, not of all draws: the box around it is over trainings.
            means, number = rows.mean(axis=1), len(rows)
            width = 0.44 if number == 1 else 0.8 / number * 0.6
            places = i + np.linspace(-0.8, 0.8, 2 * number + 1)[1::2] / 2
            if number > 1:
                ax.fill_between([i - 0.42, i + 0.42], *spread_ends(means), color=shades[i], linewidth=0, **BAR)
            ax.hlines(means.mean(), i - 0.42, i + 0.42, color=shades[i], linewidth=1.6, zorder=1.6)
            for k, (place, row) in enumerate(zip(places, rows, strict=True)):
                # In the order of the draws, side by side: draws with the same number share a seed in all models.
                across = np.linspace(-width / 2, width / 2, len(row)) if len(row) > 1 else np.zeros(1)
                ax.vlines(place, np.min(row), np.max(row), color=shades[i], linewidth=0.8, alpha=0.6)
                ax.plot(
                    place + across, row, marker(i), color=shades[i], markeredgecolor="white", markeredgewidth=0.4,
                    markersize=4 if number == 1 else 3, label=None if k else label,
                )  # fmt: skip
            if base is not None:
                ax.plot(
                    places, np.broadcast_to(base[label], places.shape), "_", color="black",
                    markersize=14 if number == 1 else 7, markeredgewidth=1.2,
                )  # fmt: skip
        if log:
            set_log(ax, "y", draws.values())
        ax.set_xticks(
            range(len(draws)), list(draws), rotation=20 if len(draws) > 6 or size_of(ax)[0] < 40 * len(draws) else 0
        )
        ax.set_xlim(-0.5, len(draws) - 0.5)
        handles = spread_key(draws, base is not None) if legend else []
        above = len(handles) > 1  # there is no room among the points
        columns = legend_columns([str(line.get_label()) for line in handles], 1.05 * size_of(ax)[0])
        if handles:
            where: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": columns} if above else {}
            ax.legend(handles=handles, **where)
        ax.set(ylabel=ylabel)
        ax.set_title(title or "", pad=8 + 12 * -(-len(handles) // columns) if above else None)
        ax.set_xlabel(ONE_COLUMN if xlabel is None and not columns_of(draws) else xlabel or "", fontsize=7)
    return ax


def columns_of(draws: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The draws of models that were trained several times, each (S, D)."""
    return [values for values in draws.values() if values.ndim == 2 and len(values) > 1]


def spread_key(draws: Mapping[str, np.ndarray], base: bool) -> list[Line2D]:
    """The legend entries of a picture of draws, with or without the unperturbed value."""
    several = columns_of(draws)
    dash: dict[str, Any] = {"color": "black", "linestyle": "", "markersize": 8, "markeredgewidth": 1.2}
    handles = [Line2D([], [], marker="_", label="unperturbed", **dash)] if base else []
    if several:
        column = grey("column: a training, point: a draw", marker="o", markersize=3, linewidth=0.8)
        handles += [*trainings_key(several, dots=False), column]
    return handles


def rises_key(trainings: Mapping[str, Sized] | None, band: str = BAND, single: bool = True) -> list[Line2D]:
    """The legend entries for bands, and for bars if models were trained several times.

    Args:
        single: whether there are models that were trained once, whose bands mean something else.
    """
    entries = trainings_key((trainings or {}).values(), dots=False)
    if entries:
        entries.append(grey("bar: ± 1 se over draws", linewidth=0.8))
        band = band and f"of one training, {band}"
    return [*entries, grey(band, linewidth=3, alpha=0.6)] if band and single else entries


@typed_keywords(xlabel="Radius of the perturbation (in filter norms)", ylabel="Rise of the loss")
def plot_rises(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    ax: Axes | None = None,
    *,
    trainings: Mapping[str, np.ndarray] | None = None,
    band: str = BAND,
    **options: Unpack[AxisOptions],
) -> Axes:
    """Draw ``{label: (radii (R,), mean (R,), deviation (R,))}`` as curves with bands of one deviation.

    For models that were trained several times, ``trainings`` has their means over draws, ``{label: (S, R)}``: the band
    is one standard deviation over trainings, and the deviation is drawn as a bar.

    Args:
        curves: one per model.
        band: text of the legend entry for bands.
        options: see :class:`~sharpness.plots.options.AxisOptions`.
    """
    with style():
        ax = new_axes(ax)
        shades = colors_of(list(curves))
        for i, (label, (radii, mean, deviation)) in enumerate(curves.items()):
            if trainings is not None and label in trainings:
                draw_spread_band(ax, radii, trainings[label], shades[i])
                # A bar, because a second band would hide the one over trainings.
                ax.errorbar(radii, mean, deviation, color=shades[i], linestyle="", elinewidth=0.8)
            else:
                ax.fill_between(radii, mean - deviation, mean + deviation, color=shades[i], alpha=0.18, linewidth=0)
            ax.plot(radii, mean, color=shades[i], marker=marker(i), linestyle=dash(i), label=label)
        if options["log"]:
            set_log(ax, "y", [mean for _, mean, _ in curves.values()])
        ax.locator_params(axis="x", nbins=5)
        set_texts(ax, options, rises_key(trainings, band, curves.keys() > (trainings or {}).keys()))
    return ax
