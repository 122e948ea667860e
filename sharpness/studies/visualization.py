"""The talk's visualization: lines, contours and surfaces of all models with shared directions, range and colours.

Unlike ``LineResult.compare``, the pictures accept models with different losses, such as their training losses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sharpness.plots import PAGE, Panel, figure_of, new_figure, plot_plane_grid, style
from sharpness.plots.frames import lower_first
from sharpness.plots.levels import signed_levels
from sharpness.plots.trainings import trainings_key
from sharpness.results import Runs, pictures
from sharpness.results.axes import plane_label
from sharpness.results.comparison import first_of, one_training
from sharpness.results.pictures import LOOKS
from sharpness.results.subsets import subset_title

#: A line that rises more than this factor above the median of all lines is cut off; a text states its height.
FAR = 4


def _rows(results: Mapping[str, Any], tail_class: int) -> list[tuple[int | None, str]]:
    """Return all samples and the rarest class, with titles."""
    first = first_of(results)
    name, probed = lower_first(subset_title(first, tail_class)), int(first.class_samples[tail_class])
    return [(None, "All classes"), (tail_class, f"Rarest: {name} ({probed} images)")]


def draw_lines(results: Mapping[int, Mapping[str, Any]], tail_class: int) -> Figure:
    """Draw rises of the loss along random directions, for all samples on the left and the rarest class on the right.

    All panels share a linear scale, on which a parabola keeps its shape. Lines far above the others are cut off. For
    several trainings of a model, mean and spread are drawn.

    Args:
        results: results by the seed of the direction; each has its own row.
        tail_class: index of the rarest class.
    """
    (first, *_) = results.values()
    with style():
        figure = new_figure(PAGE, 0.8 + 1.6 * len(results))
        axes = figure.subplots(len(results), 2, sharex=True, sharey=True, squeeze=False)
        for i, (row, (seed, of_seed)) in enumerate(zip(axes, results.items(), strict=True)):
            for ax, (subset, title) in zip(row, _rows(of_seed, tail_class), strict=True):
                pictures.draw_lines(of_seed, ax, subset, "rise", {"title": "" if i else title, "legend": False})
                if i < len(results) - 1:
                    ax.set_xlabel("")
            row[1].set_ylabel("")
            if len(results) > 1:
                row[0].set_ylabel(f"{row[0].get_ylabel()}\n(direction {seed})")
        _cut(list(axes.flat))
        handles, _ = axes[0, 0].get_legend_handles_labels()
        handles += trainings_key([entry for entry in first.values() if isinstance(entry, Runs)], dots=False)
        figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 6))
    return figure


def _cut(axes: Sequence[Axes]) -> None:
    """Limit the shared axes of all panels so that lines far above the others are cut off, and name these lines."""
    tops = {(ax, line): float(np.nanmax(line.get_ydata())) for ax in axes for line in _named(ax)}
    usual = [top for top in tops.values() if top <= FAR * np.median(list(tops.values()))]
    if len(usual) == len(tops) or max(usual) <= 0:
        return
    lowest = min(float(np.nanmin(line.get_ydata())) for ax, line in tops)
    axes[0].set_ylim(lowest - 0.05 * max(usual), 1.3 * max(usual))
    for ax in axes:
        cut = [f"{line.get_label()} to {tops[ax, line]:.2g}" for line in _named(ax) if tops[ax, line] > max(usual)]
        if cut:
            told = "above the frame: " + ", ".join(cut)
            behind = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            ax.text(0.5, 0.98, told, transform=ax.transAxes, ha="center", va="top", bbox=behind)


def _named(ax: Axes) -> list[Line2D]:
    return [line for line in ax.lines if not str(line.get_label()).startswith("_")]


def drawn_numbers(results: Mapping[int, Mapping[str, Any]], tail_class: int) -> pd.DataFrame:
    """Return the numbers of ``draw_planes``: a row per model and point, for all samples and the rarest class."""
    frames = []
    for seed, of_seed in results.items():
        for label, r in one_training(of_seed).items():
            x, y = np.meshgrid(r.x, r.y)
            columns = {"x": x, "y": y, "loss": r.losses, "rise": r.rises()}
            columns |= {"loss_tail": r.values(tail_class), "rise_tail": r.rises(tail_class), "evaluated": r.evaluated}
            named = {"model": label} if len(results) == 1 else {"directions": seed, "model": label}
            frames.append(pd.DataFrame({**named, **{name: v.ravel() for name, v in columns.items()}}))
    return pd.concat(frames, ignore_index=True)


def draw_planes(results: Mapping[int, Mapping[str, Any]], tail_class: int, kind: str) -> Figure:
    """Draw the rise of the loss over planes, with one column per model; titles name the training.

    The upper rows show all samples, the lower rows the rarest class. Each of the two has its own scale, which all
    directions share.

    Args:
        results: results by the seed of both directions; each has its own row.
        tail_class: index of the rarest class.
        kind: ``"filled"`` contours or ``"surface"``.
    """
    single = {seed: one_training(of_seed) for seed, of_seed in results.items()}
    (first, *_) = (first_of(of_seed) for of_seed in single.values())
    explained = first.provenance.get("explained")
    xlabel, ylabel = (plane_label(first.directions, first.normalization, axis, explained) for axis in (0, 1))
    rows, levels = {}, {}
    for subset, title in _rows(next(iter(single.values())), tail_class):
        shared = signed_levels([r.rises(subset) for of_seed in single.values() for r in of_seed.values()])
        for seed, of_seed in single.items():
            name = title if len(single) == 1 else f"{title},\ndirections {seed}"
            rows[name] = {label: Panel(r.x, r.y, r.rises(subset)) for label, r in of_seed.items()}
            levels[name] = shared
    return figure_of(plot_plane_grid(rows, kind=kind, levels=levels, **LOOKS["rise"], xlabel=xlabel, ylabel=ylabel))
