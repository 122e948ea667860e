"""The motivation figure: fluctuation of each model's loss under random perturbations of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sharpness.plots import PAGE, new_figure, plot_spread, style
from sharpness.plots.spread import rises_key, spread_key
from sharpness.results import PerturbationResult, Result, Runs
from sharpness.results.comparison import first_of, stacked


def tail_of(result: Result, tail_class: int) -> tuple[str | int, str]:
    """The tail, the group "few" if it has classes, else one class; and its name in titles."""
    few = result.groups.get("few", ())
    if few:
        return "few", f"Few-shot classes (mean of {len(few)})"
    return tail_class, f"Rarest class ({result.class_names[tail_class]})"


def draw_motivation(results: Mapping[str, Any], tail_class: int) -> Figure:
    """Above, the loss in every draw at the largest radius; below, its mean rise; left all data, right the tail.

    Of several trainings of a model both show mean and spread over them, beside the draws.
    """
    first = first_of(results)
    tail, tail_title = tail_of(first, tail_class)
    with style():
        figure = new_figure(PAGE, 4.6)
        axes = figure.subplots(2, 2)
        columns: list[tuple[str | int | None, str]] = [(None, "All classes"), (tail, tail_title)]
        for column, (subset, title) in enumerate(columns):
            draws, base = partial(_draws, subset=subset), partial(PerturbationResult.base, subset=subset)
            plot_spread(
                stacked(results, draws), axes[0, column], base=stacked(results, base), title=title,
                ylabel=f"Loss at radius {first.radii[-1]:g}" if column == 0 else "", legend=False,
            )  # fmt: skip
            PerturbationResult.compare(
                results, axes[1, column], subset, "radii", xlabel="Radius of the perturbation (in filter norms)",
                ylabel="Rise of the loss" if column == 0 else "", legend=False,
            )  # fmt: skip
        # By label, because several models have the same entries.
        rise = {label: r for label, r in results.items() if isinstance(r, Runs)}
        keys = {str(h.get_label()): h for h in [*spread_key(stacked(results, _draws), True), *rises_key(rise)]}
        models = axes[1, 0].get_legend_handles_labels()[0]
        handles = [*models, *keys.values()]
        figure.legend(handles=handles, loc="outside upper center", ncols=-(-len(handles) // 2))
        for ax, letter in zip(axes.flat, "abcd", strict=True):
            ax.set_title(f"({letter})", loc="left", fontweight="bold")
    return figure


def _draws(result: PerturbationResult, subset: str | int | None = None) -> np.ndarray:
    """Losses at the largest radius."""
    return result.draws(subset)[-1]
