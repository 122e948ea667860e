"""The talk's visualization: lines, contours and surfaces of every model on shared directions, range and colours.

Unlike ``LineResult.compare``, pictures also show every model on the loss that it was trained with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sharpness.plots import PAGE, new_figure, style
from sharpness.results import LineResult, PlaneResult, pictures


def _rows(results: Mapping[str, LineResult | PlaneResult], tail_class: int) -> list[tuple[int | None, str]]:
    """All samples, and the rarest class."""
    first = next(iter(results.values()))
    name, probed = first.class_names[tail_class], int(first.class_samples[tail_class])
    return [(None, "All classes"), (tail_class, f"Rarest class ({name}, {probed} images probed)")]


def draw_lines(results: Mapping[str, LineResult], tail_class: int) -> Figure:
    """Losses along one direction: left of all samples, right of the rarest class."""
    with style():
        figure = new_figure(PAGE, 2.4)
        axes = figure.subplots(1, 2)
        for ax, (subset, title) in zip(axes, _rows(results, tail_class), strict=True):
            pictures.draw_lines(results, ax, subset, "loss", {"title": title, "legend": False})
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 6))
    return figure


def draw_planes(results: Mapping[str, PlaneResult], tail_class: int, kind: str) -> Figure:
    """One column per model; above all samples, below the rarest class, each row on a scale of its own.

    Args:
        kind: ``"filled"`` contours, or ``"surface"``.
    """
    surface = kind == "surface"
    with style():
        figure = new_figure(PAGE, 3.4 if surface else 3.35)
        if surface:
            figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.02, wspace=0.0, hspace=0.0)
        bands = np.ravel(np.asarray(figure.subfigures(2, 1), dtype=object))
        for band, (subset, title) in zip(bands, _rows(results, tail_class), strict=True):
            options = {"projection": "3d"} if surface else {}
            axes = band.subplots(1, len(results), subplot_kw=options, squeeze=False)[0]
            above = subset is None
            look: dict[str, Any] = {"titles": above, **({"xlabel": ""} if above else {})}
            band.suptitle(title, fontsize=8, fontweight="bold")
            pictures.draw_planes(results, list(axes), subset, kind, "loss", look)
    return figure
