"""Scatter of outcomes against measures, a panel for each pair, with its rank correlation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from sharpness.plots.style import PAGE, colors_of, marker, shown_figure, style

OUTCOME_TITLES = {"accuracy": "Accuracy", "gap": "Train $-$ test accuracy"}


def plot_scatter(
    points: pd.DataFrame,
    taus: Mapping[tuple[str, str], tuple[float, float, float]],
    titles: Mapping[str, str],
    width: float = PAGE,
) -> np.ndarray:
    """Draw a row of panels for each outcome, a column for each measure; models differ in colour and marker.

    Args:
        points: with the columns ``model``, and the measures and outcomes that ``taus`` names.
        taus: the coefficient and both ends of its interval, by measure and outcome.
        titles: of measures.

    Returns:
        The axes, (outcomes, measures).
    """
    measures, outcomes = (list(dict.fromkeys(key[i] for key in taus)) for i in (0, 1))
    models = list(dict.fromkeys(points["model"]))
    with style():
        shades = colors_of(models)
        figure = shown_figure(width, 0.45 + 1.45 * len(outcomes) + 0.14 * -(-len(models) // 6))
        axes = figure.subplots(len(outcomes), len(measures), sharex="col", sharey="row", squeeze=False)
        for row, outcome in zip(axes, outcomes, strict=True):
            for ax, measure in zip(row, measures, strict=True):
                for number, model in enumerate(models):
                    chosen = points[points["model"] == model]
                    keys: dict[str, Any] = {"color": shades[number], "marker": marker(number), "label": model}
                    ax.plot(chosen[measure], chosen[outcome], linestyle="", markersize=3, alpha=0.75, **keys)
                _scale(ax, points[measure])  # a rank correlation is the same on either axis
                ax.set_title(_told(taus[measure, outcome]), loc="left", pad=2, fontsize=7)
                ax.margins(0.08)
            row[0].set_ylabel(OUTCOME_TITLES[outcome])
        for ax, measure in zip(axes[-1], measures, strict=True):
            ax.set_xlabel(titles.get(measure, measure))
        if len(models) > 1:
            handles, labels = axes[0, 0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=min(len(models), 6))
    return axes


def _scale(ax: Any, values: pd.Series) -> None:
    """Logarithmic where positive values spread over more than a decade."""
    known = values[np.isfinite(values)]
    if len(known) and known.min() > 0 and known.max() > 10 * known.min():
        ax.set_xscale("log")


def _told(tau: tuple[float, float, float]) -> str:
    value, low, high = tau
    if not np.isfinite(value):
        return "no correlation: all alike"
    told = rf"$\tau$ = {value:.2f}"
    return told if not np.isfinite(low) else f"{told} [{low:.2f}, {high:.2f}]"
