"""The talk's visualization: lines, contours and surfaces of every model on shared directions, range and colours.

Unlike ``LineResult.compare``, pictures also show every model on the loss that it was trained with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sharpness.plots import PAGE, Panel, new_figure, plot_plane_grid, style
from sharpness.plots.frames import lower_first
from sharpness.plots.trainings import trainings_key
from sharpness.results import Runs, pictures
from sharpness.results.axes import plane_label
from sharpness.results.comparison import first_of, one_training
from sharpness.results.pictures import subset_title

#: What planes show: how flat a model is does not depend on where its loss begins.
RISE = "Rise of the loss"


def _rows(results: Mapping[str, Any], tail_class: int) -> list[tuple[int | None, str]]:
    """All samples, and the rarest class."""
    first = first_of(results)
    name, probed = lower_first(subset_title(first, tail_class)), int(first.class_samples[tail_class])
    return [(None, "All classes"), (tail_class, f"Rarest: {name} ({probed} images)")]


def rise_levels(rises: Sequence[np.ndarray], number: int = 12) -> np.ndarray:
    """About so many levels for all of these: squares of even steps, up and down from a band around zero.

    They go from the lowest rise to nine tenths of all, as those of a clipped scale do. Zero is within a band, because
    a level would trace the noise of a flat model.

    >>> rise_levels([np.array([-4.0, 6.25, 6.25, 6.25])], number=5).tolist()
    [-6.25, -2.25, -0.25, 0.25, 2.25, 6.25]
    """
    found = np.concatenate([r[np.isfinite(r)] for r in rises])
    high = max(float(np.quantile(found, 0.9)), 1e-6)
    down, up = np.sqrt([max(-float(found.min()), 0.0), high])
    above = max(2, round((number + 1) * up / (up + down)))
    step = up / (above - 0.5)
    below = max(1, np.ceil(down / step + 0.5 - 1e-9))
    edges = (np.arange(-below, above) + 0.5) * step
    return np.sign(edges) * edges**2


def draw_lines(results: Mapping[str, Any], tail_class: int) -> Figure:
    """Losses along one direction, on one scale: left of all samples, right of the rarest class.

    Of several trainings of a model mean and spread.
    """
    with style():
        figure = new_figure(PAGE, 2.4)
        axes = figure.subplots(1, 2, sharey=True)
        for ax, (subset, title) in zip(axes, _rows(results, tail_class), strict=True):
            pictures.draw_lines(results, ax, subset, "loss", {"title": title, "legend": False})
        axes[1].set_ylabel("")
        handles, _ = axes[0].get_legend_handles_labels()
        handles += trainings_key([entry for entry in results.values() if isinstance(entry, Runs)], dots=False)
        figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 6))
    return figure


def drawn_numbers(results: Mapping[str, Any], tail_class: int) -> pd.DataFrame:
    """What :func:`draw_planes` draws: a row per model and cell, of all samples and of the rarest class."""
    frames = []
    for label, r in one_training(results).items():
        x, y = np.meshgrid(r.x, r.y)
        columns = {"x": x, "y": y, "loss": r.losses, "rise": r.rises()}
        columns |= {"loss_tail": r.values(tail_class), "rise_tail": r.rises(tail_class), "evaluated": r.evaluated}
        frames.append(pd.DataFrame({"model": label, **{name: v.ravel() for name, v in columns.items()}}))
    return pd.concat(frames, ignore_index=True)


def draw_planes(results: Mapping[str, Any], tail_class: int, kind: str) -> Figure:
    """How far the loss rises above each model's own; one column per model, whose title names the training.

    Above are all samples, below is the rarest class, each row on a scale of its own.

    Args:
        kind: ``"filled"`` contours, or ``"surface"``.
    """
    results = one_training(results)
    first = first_of(results)
    explained = first.provenance.get("explained")
    xlabel, ylabel = (plane_label(first.directions, first.normalization, axis, explained) for axis in (0, 1))
    rows = {
        title: {label: Panel(r.x, r.y, r.rises(subset)) for label, r in results.items()}
        for subset, title in _rows(results, tail_class)
    }
    levels = {title: rise_levels([panel.z for panel in panels.values()]) for title, panels in rows.items()}
    places = plot_plane_grid(rows, kind=kind, levels=levels, label=RISE, xlabel=xlabel, ylabel=ylabel)
    figure = places[0].get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure
