"""Curves of a loss along a line, one per model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from sharpness.plots.style import color, new_axes, style


def plot_lines(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    ax: Axes | None = None,
    *,
    title: str | None = None,
    xlabel: str = "Distance along the direction (in filter norms)",
    ylabel: str = "Loss",
    log: bool = False,
    legend: bool = True,
) -> Axes:
    """Draw ``{label: (x (n,), y (n,))}``. Values that are not finite leave a gap."""
    with style():
        ax = new_axes(ax)
        for i, (label, (x, y)) in enumerate(curves.items()):
            ax.plot(x, np.where(np.isfinite(y), y, np.nan), color=color(i), label=label)
        if log:
            ax.set_yscale("log")
        ax.set(xlabel=xlabel, ylabel=ylabel, title=title or "")
        if legend:
            ax.legend()
    return ax
