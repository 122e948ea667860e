"""Logarithmic axes, including symmetric ones for values of both signs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes

from sharpness.plots.labels import size_of

#: Number of decades below the largest value on a symmetric logarithmic axis.
DECADES = 4


def set_symlog(ax: Axes, axis: Literal["x", "y"], linthresh: float) -> None:
    """Make an axis linear between plus and minus ``linthresh`` and logarithmic beyond, after everything is drawn."""
    getattr(ax, f"set_{axis}scale")("symlog", linthresh=linthresh)
    ticks = size_of(ax)[0] / 36 if axis == "x" else size_of(ax)[1] / 16
    getattr(ax, f"{axis}axis").get_major_locator().set_params(numticks=max(3, int(ticks)))
    ax.tick_params(axis=axis, which="minor", length=0)
    ax.autoscale_view(scalex=axis == "x", scaley=axis == "y")


def set_log(ax: Axes, axis: Literal["x", "y"], values: Iterable[Any]) -> None:
    """Make an axis logarithmic, and linear around zero if any of the ``values`` drawn on it is negative."""
    flat = np.concatenate([np.empty(0), *(np.ravel(v) for v in values)])
    sizes = np.abs(flat[np.isfinite(flat) & (flat != 0)])
    if not len(sizes) or (flat[np.isfinite(flat)] >= 0).all():
        getattr(ax, f"set_{axis}scale")("log")
        return
    low = max(float(sizes.min()), float(sizes.max()) / 10**DECADES)
    set_symlog(ax, axis, 10.0 ** np.floor(np.log10(low)))
