"""The talk's visualization: lines, contours and surfaces of every model on shared directions, range and colours.

Unlike ``LineResult.compare``, pictures also show every model on the loss that it was trained with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sharpness.plots import PAGE, Panel, new_figure, plot_plane_grid, style
from sharpness.plots.frames import lower_first
from sharpness.plots.levels import signed_levels
from sharpness.plots.trainings import trainings_key
from sharpness.results import Runs, pictures
from sharpness.results.axes import plane_label
from sharpness.results.comparison import first_of, one_training
from sharpness.results.pictures import LOOKS, subset_title

#: Largest rise over the rise that nine of ten do not exceed, from which on lines are drawn on a scale of square roots.
FAR = 4
#: Ticks of that scale above zero.
TICKS = np.outer(10.0 ** np.arange(-1, 4), [1, 4]).ravel()


def _rows(results: Mapping[str, Any], tail_class: int) -> list[tuple[int | None, str]]:
    """All samples, and the rarest class."""
    first = first_of(results)
    name, probed = lower_first(subset_title(first, tail_class)), int(first.class_samples[tail_class])
    return [(None, "All classes"), (tail_class, f"Rarest: {name} ({probed} images)")]


def _root(y: np.ndarray) -> np.ndarray:
    """Square roots with the sign of the values."""
    return np.sign(y) * np.sqrt(np.abs(y))


def draw_lines(results: Mapping[int, Mapping[str, Any]], tail_class: int) -> Figure:
    """Draw rises of the loss along random directions, on one scale: left of all samples, right of the rarest class.

    Where few rises leave all others far below, the scale is one of square roots, as the levels of contours are. Of
    several trainings of a model mean and spread.

    Args:
        results: by the seed of the direction, a row each.
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
                row[0].set_ylabel(f"{row[0].get_ylabel()}\n(direction of seed {seed})")
        rises = np.abs(np.concatenate([line.get_ydata() for ax in axes.flat for line in ax.lines]))
        if np.nanmax(rises) > FAR * np.nanquantile(rises, 0.9):
            axes[0, 0].set_yscale("function", functions=(_root, lambda y: np.sign(y) * y**2))
            low, high = axes[0, 0].get_ylim()
            ticks = [t for t in (*-TICKS[::-1], 0, *TICKS) if low <= t <= high]
            axes[0, 0].set_yticks(ticks, [f"{t:g}" for t in ticks])
        handles, _ = axes[0, 0].get_legend_handles_labels()
        handles += trainings_key([entry for entry in first.values() if isinstance(entry, Runs)], dots=False)
        figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 6))
    return figure


def drawn_numbers(results: Mapping[int, Mapping[str, Any]], tail_class: int) -> pd.DataFrame:
    """The numbers of ``draw_planes``: a row per model and cell, of all samples and of the rarest class."""
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
    """Draw the rise of the loss over planes, one column per model, whose title names the training.

    Above are all samples, below is the rarest class, both on a scale of their own that all directions share.

    Args:
        results: by the seed of both directions, a row each.
        kind: ``"filled"`` contours, or ``"surface"``.
    """
    single = {seed: one_training(of_seed) for seed, of_seed in results.items()}
    (first, *_) = (first_of(of_seed) for of_seed in single.values())
    explained = first.provenance.get("explained")
    xlabel, ylabel = (plane_label(first.directions, first.normalization, axis, explained) for axis in (0, 1))
    rows, levels = {}, {}
    for subset, title in _rows(next(iter(single.values())), tail_class):
        shared = signed_levels([r.rises(subset) for of_seed in single.values() for r in of_seed.values()])
        for seed, of_seed in single.items():
            name = title if len(single) == 1 else f"{title}, seed {seed}"
            rows[name] = {label: Panel(r.x, r.y, r.rises(subset)) for label, r in of_seed.items()}
            levels[name] = shared
    places = plot_plane_grid(rows, kind=kind, levels=levels, **LOOKS["rise"], xlabel=xlabel, ylabel=ylabel)
    figure = places[0].get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure
