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
from sharpness.plots.trainings import trainings_key
from sharpness.results import Runs, pictures
from sharpness.results.axes import plane_label
from sharpness.results.comparison import first_of, one_training
from sharpness.results.pictures import LOOKS, subset_title


def _rows(results: Mapping[str, Any], tail_class: int) -> list[tuple[int | None, str]]:
    """All samples, and the rarest class."""
    first = first_of(results)
    name, probed = lower_first(subset_title(first, tail_class)), int(first.class_samples[tail_class])
    return [(None, "All classes"), (tail_class, f"Rarest: {name} ({probed} images)")]


def draw_lines(results: Mapping[str, Any], tail_class: int) -> Figure:
    """Draw rises of the loss along one direction, on one scale: left of all samples, right of the rarest class.

    Of several trainings of a model mean and spread.
    """
    with style():
        figure = new_figure(PAGE, 2.4)
        axes = figure.subplots(1, 2, sharey=True)
        for ax, (subset, title) in zip(axes, _rows(results, tail_class), strict=True):
            pictures.draw_lines(results, ax, subset, "rise", {"title": title, "legend": False})
        axes[1].set_ylabel("")
        handles, _ = axes[0].get_legend_handles_labels()
        handles += trainings_key([entry for entry in results.values() if isinstance(entry, Runs)], dots=False)
        figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 6))
    return figure


def drawn_numbers(results: Mapping[str, Any], tail_class: int) -> pd.DataFrame:
    """The numbers of ``draw_planes``: a row per model and cell, of all samples and of the rarest class."""
    frames = []
    for label, r in one_training(results).items():
        x, y = np.meshgrid(r.x, r.y)
        columns = {"x": x, "y": y, "loss": r.losses, "rise": r.rises()}
        columns |= {"loss_tail": r.values(tail_class), "rise_tail": r.rises(tail_class), "evaluated": r.evaluated}
        frames.append(pd.DataFrame({"model": label, **{name: v.ravel() for name, v in columns.items()}}))
    return pd.concat(frames, ignore_index=True)


def draw_planes(results: Mapping[str, Any], tail_class: int, kind: str) -> Figure:
    """Draw the rise of the loss over a plane, one column per model, whose title names the training.

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
    places = plot_plane_grid(rows, kind=kind, **LOOKS["rise"], xlabel=xlabel, ylabel=ylabel)
    figure = places[0].get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure
