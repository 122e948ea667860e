"""How much a number varies between draws, model beside model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from sharpness.plots.labels import grey
from sharpness.plots.style import color, marker, new_axes, style


def plot_spread(
    draws: Mapping[str, np.ndarray],
    ax: Axes | None = None,
    *,
    base: Mapping[str, float] | None = None,
    title: str | None = None,
    xlabel: str = "dots: draws, bar: their mean, line: their range",
    ylabel: str = "",
    log: bool = False,
    legend: bool = True,
) -> Axes:
    """Draw ``{label: (D,)}``: a point per draw, a line from the smallest to the largest, the mean as a bar.

    ``base``, if given, is marked by a black dash: the value without perturbation.
    """
    with style():
        ax = new_axes(ax)
        for i, (label, values) in enumerate(draws.items()):
            spread = np.linspace(-0.22, 0.22, len(values)) if len(values) > 1 else np.zeros(1)
            ax.vlines(i, np.min(values), np.max(values), color=color(i), linewidth=0.8, alpha=0.6)
            ax.hlines(np.mean(values), i - 0.3, i + 0.3, color=color(i), linewidth=1.6)
            ax.plot(
                i + spread,
                values,
                marker(i),
                color=color(i),
                markeredgecolor="white",
                markeredgewidth=0.4,
                label=label,
            )
            if base is not None:
                ax.plot(
                    i,
                    base[label],
                    "_",
                    color="black",
                    markersize=14,
                    markeredgewidth=1.2,
                    label="unperturbed",
                )
        if log:
            ax.set_yscale("log")
        ax.set_xticks(range(len(draws)), list(draws), rotation=20 if len(draws) > 6 else 0)
        ax.set_xlim(-0.5, len(draws) - 0.5)
        if base is not None and legend:
            ax.legend(*([entries[-1]] for entries in ax.get_legend_handles_labels()))
        ax.set(ylabel=ylabel, title=title or "")
        ax.set_xlabel(xlabel, fontsize=7)
    return ax


def plot_rises(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    ax: Axes | None = None,
    *,
    title: str | None = None,
    xlabel: str = "Radius of the perturbation (in filter norms)",
    ylabel: str = "Rise of the loss",
    band: str = "band: ± one deviation of draws",
    legend: bool = True,
) -> Axes:
    """Draw ``{label: (radii (R,), mean (R,), standard deviation (R,))}`` as curves with bands, which the legend names."""
    with style():
        ax = new_axes(ax)
        for i, (label, (radii, mean, deviation)) in enumerate(curves.items()):
            ax.fill_between(radii, mean - deviation, mean + deviation, color=color(i), alpha=0.18, linewidth=0)
            ax.plot(radii, mean, color=color(i), marker=marker(i), label=label)
        ax.locator_params(axis="x", nbins=5)
        ax.set(xlabel=xlabel, ylabel=ylabel, title=title or "")
        if legend:
            key = grey(band, linewidth=3, alpha=0.6)
            ax.legend(handles=[*ax.get_legend_handles_labels()[0], *([key] if band else [])])
    return ax
