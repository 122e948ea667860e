"""The talk's motivation: how much does the loss of each model fluctuate when its weights are moved at random?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from sharpness.plots import PAGE, new_figure, plot_rises, plot_spread, style
from sharpness.results import PerturbationResult

RADII = (0.025, 0.05, 0.1, 0.15, 0.2)


def tail_of(result: PerturbationResult, tail_class: int) -> tuple[str | int, str]:
    """What stands for the tail: the group "few" if it has classes, else one class; and its name in titles."""
    few = result.groups.get("few", ())
    if few:
        return "few", f"Few-shot classes (mean of {len(few)})"
    return tail_class, f"Rarest class ({result.class_names[tail_class]})"


def draw_motivation(results: Mapping[str, PerturbationResult], tail_class: int) -> Figure:
    """Above, the loss in every draw at the largest radius; below, its mean rise; left all data, right the tail."""
    first = next(iter(results.values()))
    tail, tail_title = tail_of(first, tail_class)
    with style():
        figure = new_figure(PAGE, 4.1)
        axes = figure.subplots(2, 2)
        columns: list[tuple[str | int | None, str]] = [(None, "All classes"), (tail, tail_title)]
        for column, (subset, title) in enumerate(columns):
            draws = {label: r.draws(subset)[-1] for label, r in results.items()}
            base = {label: r.base(subset) for label, r in results.items()}
            plot_spread(
                draws, axes[0, column], base=base, title=title,
                ylabel=f"Loss at radius {first.radii[-1]:g}" if column == 0 else "", legend=column == 0,
            )  # fmt: skip
            curves = {}
            for label, r in results.items():
                rises = r.draws(subset) - r.base(subset)
                curves[label] = (
                    np.concatenate([[0.0], r.radii]),
                    np.concatenate([[0.0], rises.mean(axis=1)]),
                    np.concatenate([[0.0], rises.std(axis=1, ddof=1) if rises.shape[1] > 1 else 0 * rises[:, 0]]),
                )
            plot_rises(curves, axes[1, column], ylabel="Rise of the loss" if column == 0 else "", legend=column == 0)
        for ax, letter in zip(axes.flat, "abcd", strict=True):
            ax.set_title(f"({letter})", loc="left", fontweight="bold")
    return figure
