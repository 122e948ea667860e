"""The motivation figure: fluctuation of each model's loss under random perturbations of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sharpness.plots import PAGE, new_figure, plot_spread, style
from sharpness.plots.labels import grey
from sharpness.plots.spread import ONE_COLUMN, rises_key, spread_key
from sharpness.results import PerturbationResult, Result, Runs
from sharpness.results.axes import radius_unit
from sharpness.results.comparison import first_of, stacked


def columns_of(result: Result, tail_class: int) -> dict[str | int | None, str]:
    """Return the subsets of the picture's columns with titles: all classes, then all groups or the rarest class."""
    present = {
        name: int(np.count_nonzero(result.class_samples[list(members)])) for name, members in result.groups.items()
    }
    groups: dict[str | int | None, str] = {
        name: f"{name.capitalize()} ({n} class{'es' if n > 1 else ''})" for name, n in present.items() if n
    }
    rarest: dict[str | int | None, str] = {tail_class: f"Rarest ({result.class_names[tail_class]})"}
    return {None: "All classes", **(groups if len(groups) > 1 else rarest)}


def draw_motivation(results: Mapping[str, Any], tail_class: int) -> Figure:
    """Draw the loss of every draw at the largest radius above its mean rise, with a column for each group of classes.

    All columns of a row share a scale. For several trainings of a model, both rows also show mean and spread over the
    trainings.
    """
    first = first_of(results)
    with style():
        figure = new_figure(PAGE, 4.0)
        columns = columns_of(first, tail_class)
        axes = figure.subplots(2, len(columns), sharey="row")
        for column, subset in enumerate(columns):
            draws, base = partial(_draws, subset=subset), partial(PerturbationResult.base, subset=subset)
            plot_spread(
                stacked(results, draws), axes[0, column], base=stacked(results, base), xlabel="",
                ylabel=f"Loss at radius {first.radii[-1]:g}" if column == 0 else "", legend=False,
            )  # fmt: skip
            axes[0, column].set_xticks([])  # the legend names the models
            PerturbationResult.compare(
                results, axes[1, column], subset, "radii", xlabel="", legend=False,
                ylabel="Rise of the loss" if column == 0 else "",
            )  # fmt: skip
        unit = radius_unit(first.normalization, first.distribution)
        figure.supxlabel(f"Radius of the perturbation ({unit})", fontsize=8)
        # Merged by label, because models share entries.
        rise = {label: r for label, r in results.items() if isinstance(r, Runs) and len(r) > 1}
        above = spread_key(stacked(results, _draws), True)
        above += [] if rise else [grey(ONE_COLUMN, marker="o", markersize=3, linewidth=0.8)]
        keys = {str(h.get_label()): h for h in [*above, *rises_key(rise, single=len(rise) < len(results))]}
        models = axes[1, 0].get_legend_handles_labels()[0]
        handles = [*models, *keys.values()]
        rows = 2 if len(handles) < 9 else 3  # two rows of more entries would be wider than the page
        figure.legend(handles=handles, loc="outside upper center", ncols=-(-len(handles) // rows))
        for ax, letter, title in zip(axes.flat, "abcdefgh", 2 * list(columns.values()), strict=False):
            ax.set_title(f"({letter}) {title}" if ax in axes[0] else f"({letter})", loc="left")
    return figure


def _draws(result: PerturbationResult, subset: str | int | None = None) -> np.ndarray:
    """Return the losses at the largest radius."""
    return result.draws(subset)[-1]
