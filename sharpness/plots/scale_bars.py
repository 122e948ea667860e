"""Colour bars next to panels: round numbers with the same number of digits, aligned labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox
from mpl_toolkits.mplot3d.axes3d import Axes3D

from sharpness.plots.labels import size_of, width_of
from sharpness.plots.levels import Levels, decade_ticks, level_labels
from sharpness.plots.style import figure_of

#: Width, and distance from the panels, in inches, of a bar next to given panels without a layout.
BAR, GAP = 0.09, 0.06


def scale_bars(
    groups: Sequence[tuple[Sequence[Axes], Levels]], bands: bool, label: str, colors: str, laid_out: bool
) -> None:
    """Draw a bar for each group of panels.

    Args:
        bands: whether each band between levels has one colour, instead of continuous shades.
        laid_out: whether a layout places the bars; otherwise they take room from their panels, and have their height.
    """
    marked = [bar_ticks(levels, bands) for _, levels in groups]
    widths = [width_of(texts, 7) for _, texts in marked]
    for (places, levels), (ticks, texts), width in zip(groups, marked, widths, strict=True):
        norm = levels.bands() if bands else levels.shades()
        pad = 0.1 if not bands and len(places) == 1 else 0.02
        high = sum({round(ax.get_position().y0, 6): size_of(ax)[1] / 72 for ax in places}.values())
        room: dict[str, Any] = {"shrink": 0.85, "pad": pad, "aspect": float(np.clip(0.7 * high / BAR, 8, 20))}
        if not laid_out:
            inches = BAR + 2 * GAP + (max(widths) + 32) / 72  # and for the numbers of a panel next to it
            across = sum({round(ax.get_position().x0, 6): size_of(ax)[0] / 72 for ax in places}.values())
            room = {"fraction": min(0.45, inches / across), "pad": 0.0, "aspect": 20}
        bar = figure_of(places).colorbar(
            ScalarMappable(norm, levels.colors(colors, bands)), ax=list(places), extend=levels.extend, **room
        )
        bar.set_ticks(ticks.tolist())
        bar.set_ticklabels(texts)
        bar.minorticks_off()
        # Labels of several bars would overlap if panels are low: one for all, next to the middle.
        if len(groups) == 1 or width_of([label], 8) < 72 * high or places is groups[len(groups) // 2][0]:
            bar.set_label(label, labelpad=3 + max(widths) - width)
        if not laid_out and not any(isinstance(ax, Axes3D) for ax in places):
            bar.ax.set_box_aspect(None)
            bar.ax.set_axes_locator(_Beside(places))


def bar_ticks(levels: Levels, bands: bool) -> tuple[np.ndarray, list[str]]:
    """Positions on a bar and their labels: every third level of bands, otherwise round numbers; or powers of ten.

    >>> bar_ticks(Levels(np.linspace(0, 26.5, 13)), bands=False)[1]
    ['0', '5', '10', '15', '20', '25']
    """
    low, high = levels.edges[[0, -1]]
    if levels.log:
        ticks, texts = decade_ticks(low, high)
        # Between two levels a bar of bands is linear, and a power of ten is placed by its logarithm.
        return np.interp(np.log10(ticks), np.log10(levels.edges), levels.edges) if bands else ticks, texts
    if bands:
        step = 3 if len(levels.edges) > 8 else 1
        ticks = levels.edges[int(np.argmin(np.abs(levels.edges))) % step :: step]  # zero among them, if it is a level
    else:
        ticks = np.asarray(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high))
        ticks = ticks[(ticks >= low - 1e-3 * (high - low)) & (ticks <= high)]
    return ticks, level_labels(ticks)


class _Beside:
    """The position of a bar: right of its panels, with their height as drawn."""

    def __init__(self, places: Sequence[Axes]) -> None:
        self.places = places

    def __call__(self, ax: Axes, renderer: object) -> Bbox:
        figure = figure_of(ax)
        for place in self.places:
            place.apply_aspect()
        panels = Bbox.union([place.get_position() for place in self.places])
        inch = figure.dpi_scale_trans.transform((1, 0))[0] / figure.bbox.width
        return Bbox.from_bounds(panels.x1 + GAP * inch, panels.y0, BAR * inch, panels.height)
