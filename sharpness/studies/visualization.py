"""The talk's visualization: lines, contours and surfaces of every model on shared directions, range and colours."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from sharpness.plots import PAGE, new_figure, plot_contours, plot_lines, plot_surfaces, style
from sharpness.results import LineResult, PlaneResult


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
            curves = {label: (r.x, r.values(subset)) for label, r in results.items()}
            plot_lines(curves, ax, title=title, ylabel="Loss", legend=False)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 6))
    return figure


def draw_planes(results: Mapping[str, PlaneResult], tail_class: int, kind: str) -> Figure:
    """One column per model; above all samples, below the rarest class, each row on a scale of its own."""
    surface = kind == "surface"
    with style():
        figure = new_figure(PAGE, 3.4 if surface else 3.1)
        bands = np.ravel(np.asarray(figure.subfigures(2, 1), dtype=object))
        for band, (subset, title) in zip(bands, _rows(results, tail_class), strict=True):
            options = {"projection": "3d"} if surface else {}
            axes = band.subplots(1, len(results), subplot_kw=options, squeeze=False)[0]
            panels = {label: (r.x, r.y, r.values(subset)) for label, r in results.items()}
            band.suptitle(title, fontsize=8, fontweight="bold")
            if surface:
                plot_surfaces(panels, axes, titles=subset is None)
            else:
                plot_contours(panels, axes, titles=subset is None, xlabel="" if subset is None else "Direction 1")
    return figure
