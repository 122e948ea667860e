"""An axis for numbers of both signs over many orders of magnitude."""

from __future__ import annotations

from typing import Literal

import numpy as np
from matplotlib.axes import Axes

from sharpness.plots.labels import LINE, size_of, width_of


def set_symlog(ax: Axes, axis: Literal["x", "y"], linthresh: float, fontsize: float = 7) -> None:
    """Linear between minus and plus ``linthresh``, logarithmic beyond: to be called when everything is drawn.

    Ticks are zero and powers of ten of both signs, as many as there is room for.
    """
    getattr(ax, f"set_{axis}scale")("symlog", linthresh=linthresh)
    ax.autoscale_view(scalex=axis == "x", scaley=axis == "y")
    low, high = sorted(getattr(ax, f"get_{axis}lim")())
    first = int(np.ceil(np.log10(linthresh) - 1e-9))
    last = int(np.floor(np.log10(max(-low, high, 10.0**first))))
    widest = width_of([r"$-10^{-2}$"], fontsize) + fontsize
    room = size_of(ax)[0] / widest if axis == "x" else size_of(ax)[1] / (1.6 * LINE * fontsize)
    decades = sum(max(0.0, np.log10(end / linthresh)) + 1 for end in (-low, high) if end > 0)
    step = max(1, int(np.ceil(decades / room)))
    powers = 10.0 ** np.arange(first, last + 1, step)
    ticks = np.concatenate([-powers[::-1], [0.0], powers])
    getattr(ax, f"set_{axis}ticks")(ticks[(ticks >= low) & (ticks <= high)])
    getattr(ax, f"set_{axis}lim")(low, high)
    ax.tick_params(axis=axis, which="minor", length=0)
