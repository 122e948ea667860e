"""Spread over several trainings of one model."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.lines import Line2D

from sharpness.plots.labels import grey

#: Styles of the bar or band of a spread, and of the point of a training.
BAR: dict[str, Any] = {"alpha": 0.3, "zorder": 1.5}
DOT: dict[str, Any] = {"linestyle": "", "marker": ".", "markeredgewidth": 0, "alpha": 0.9, "zorder": 2.5}


def spread_ends(trainings: np.ndarray, log: bool = False) -> np.ndarray:
    """The mean over trainings (S, ...) minus and plus one standard deviation (n - 1), (2, ...); NaN for fewer than two.

    For values of one sign, the ends have that sign: if one standard deviation would reach zero, the end is the value
    nearest to zero. On a ``log`` axis, where a standard deviation of the values has no meaning, the ends are the
    smallest and the largest value.

    >>> spread_ends(np.array([1.0, 2.0, 3.0])).tolist(), spread_ends(np.array([0.1, 0.1, 10.0]))[0].tolist()
    ([1.0, 3.0], 0.1)
    """
    known = ~np.isnan(trainings)
    number = known.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(known, trainings, 0.0).sum(axis=0) / number
        deviation = np.sqrt((np.where(known, trainings - mean, 0.0) ** 2).sum(axis=0) / (number - 1))
        deviation = np.where(number > 1, deviation, np.nan)
        low, high = mean - deviation, mean + deviation
    least, most = np.where(known, trainings, np.inf).min(axis=0), np.where(known, trainings, -np.inf).max(axis=0)
    if log:
        return np.where(number > 1, np.stack([least, most]), np.nan)
    return np.stack([np.where((least > 0) & (low <= 0), least, low), np.where((most < 0) & (high >= 0), most, high)])


def draw_trainings(
    ax: Axes,
    at: np.ndarray,
    trainings: np.ndarray,
    color: str,
    size: float,
    many: bool = False,
    bounds: tuple[float, float] | None = None,
    log: bool = False,
) -> None:
    """Draw the spread over trainings (S, C) at positions (C,) as pale bars, and a dot for each training.

    ``size`` is the size of the mean's marker in points. With ``many`` positions, the bars become a band without dots.
    Bars end at the ``bounds`` of possible values.
    """
    low, high = np.clip(spread_ends(trainings, log), *bounds or (-np.inf, np.inf))
    known = np.isfinite(low) & np.isfinite(high)
    if many:
        ax.fill_between(at, low, high, where=known, color=color, linewidth=0, gid="spread", **BAR)
        return
    if known.any():
        ax.vlines(at[known], low[known], high[known], color=color, linewidth=1.1 * size, gid="spread", **BAR)
    for values in trainings:
        ax.plot(at, values, color=color, markersize=max(0.8 * size, 1.6), gid="training", **DOT)


def draw_spread_band(ax: Axes, x: np.ndarray, trainings: np.ndarray, color: str) -> PolyCollection:
    """Draw a band of one standard deviation around the mean of curves (S, n)."""
    low, high = spread_ends(trainings)
    return ax.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0, gid="spread")


def trainings_key(trainings: Iterable[Sized], dots: bool = True, log: bool = False, where: str = "") -> list[Line2D]:
    """The legend entries for bars, bands and dots of several trainings, in the panels that ``where`` names if any."""
    numbers = sorted({len(values) for values in trainings if len(values) > 1})
    if not numbers:
        return []
    told = f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    spread = "range" if log else "± 1 sd"
    entries = [grey(f"{f'{where}: ' if where else ''}{spread} over {told} trainings", linewidth=4, alpha=0.35)]
    return [*entries, grey("one training", **{**DOT, "markersize": 5})] if dots else entries
