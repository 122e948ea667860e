"""Scatter plots of outcomes against measures, a panel for each pair, with its rank correlation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from sharpness.errors import UserError
from sharpness.plots.scales import set_log
from sharpness.plots.small_multiples import given_axes
from sharpness.plots.style import PAGE, colors_of, figure_of, marker, shown_figure, style

OUTCOME_TITLES = {"accuracy": "Accuracy", "gap": "Train $-$ test accuracy"}


def plot_scatter(
    points: pd.DataFrame,
    taus: Mapping[tuple[str, str], tuple[float, float, float]],
    titles: Mapping[str, str],
    *,
    ax: Any = None,
    title: str | None = None,
    log: bool | None = None,
) -> np.ndarray:
    """Draw a row of panels for each outcome, a column for each measure; models differ in colour and marker.

    Args:
        points: with the columns ``model``, and the measures and outcomes that ``taus`` names.
        taus: the coefficient and both ends of its interval, by measure and outcome, if there are enough points.
        titles: titles of measures.
        ax: (outcomes, measures) Axes, or a list of as many, row by row; by default new ones.
        title: title above the panels of a new figure.
        log: whether measures are on logarithmic axes; by default those whose values span a decade.

    Returns:
        The axes, (outcomes, measures).

    Raises:
        UserError: the number of Axes is not that of the panels, or a title with given Axes.
    """
    measures, outcomes = (list(dict.fromkeys(key[i] for key in taus)) for i in (0, 1))
    models = list(dict.fromkeys(points["model"]))
    with style():
        shades = colors_of(models)
        shape = len(outcomes), len(measures)
        if ax is not None:
            axes = np.reshape(np.array(given_axes(ax, len(outcomes) * len(measures)), dtype=object), shape)
            if title is not None:
                raise UserError(f"title={title!r}: give it to the figure of the Axes")
            figure = figure_of(axes)
        else:
            figure = shown_figure(PAGE, 0.45 + 1.45 * len(outcomes) + 0.14 * -(-len(models) // 6))
            axes = figure.subplots(*shape, sharex="col", sharey="row", squeeze=False)
            figure.suptitle(title or "", fontsize=8)
        for row, outcome in zip(axes, outcomes, strict=True):
            for place, measure in zip(row, measures, strict=True):
                for number, model in enumerate(models):
                    chosen = points[points["model"] == model]
                    keys: dict[str, Any] = {"color": shades[number], "marker": marker(number), "label": model}
                    place.plot(chosen[measure], chosen[outcome], linestyle="", markersize=3, alpha=0.75, **keys)
                _scale(place, points[measure], log)  # a rank correlation is the same on either axis
                place.set_title(_tau_text(taus.get((measure, outcome))), loc="left", pad=2, fontsize=7)
                place.margins(0.08)
            row[0].set_ylabel(OUTCOME_TITLES[outcome])
        for place, measure in zip(axes[-1], measures, strict=True):
            place.set_xlabel(titles.get(measure, measure))
        # Below, because a legend above would be among the coefficients.
        if len(models) > 1:
            handles, labels = axes[0, 0].get_legend_handles_labels()
            where = "outside lower center" if ax is None else "lower center"
            figure.legend(handles, labels, loc=where, ncols=min(len(models), 6))
    return axes


def _scale(ax: Any, values: pd.Series, log: bool | None) -> None:
    """Make the axis logarithmic on request, or if positive values span a decade, or if few values are outliers."""
    known = values[np.isfinite(values)].to_numpy()
    sizes = np.abs(known[known != 0])
    if not len(sizes):
        return
    positive = known.min() > 0
    wide = sizes.max() > 10 * (sizes.min() if positive else np.quantile(sizes, 0.75))
    if wide if log is None else log:
        set_log(ax, "x", [known, [] if positive else -sizes])


def _tau_text(tau: tuple[float, float, float] | None) -> str:
    if tau is None:
        return "no correlation: too few"
    value, low, high = tau
    if not np.isfinite(value):
        return "no correlation: all alike"
    told = rf"$\tau$ = {value:.2f}"
    return told if not np.isfinite(low) else f"{told} [{low:.2f}, {high:.2f}]"
