"""One value per class and model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from sharpness.plots.labels import (
    MANY,
    OPEN,
    bars_key,
    class_label,
    doubtful_key,
    draw_doubtful,
    label_classes,
    legend_above,
    marker_size,
    not_converged,
    offsets,
)
from sharpness.plots.scales import set_symlog
from sharpness.plots.style import PAGE, color, marker, new_axes, style
from sharpness.plots.trainings import draw_trainings, trainings_key


def plot_class_values(
    values: Mapping[str, np.ndarray],
    names: Sequence[str],
    ax: Axes | None = None,
    *,
    intervals: Mapping[str, np.ndarray] | None = None,
    over: str = "",
    trainings: Mapping[str, np.ndarray] | None = None,
    bounds: tuple[float, float] | None = None,
    flags: Mapping[str, np.ndarray] | None = None,
    doubtful: Mapping[str, np.ndarray] | None = None,
    counts: np.ndarray | None = None,
    title: str | None = None,
    xlabel: str | None = None,
    ylabel: str = "",
    log: bool = False,
    floor: float | None = None,
    linthresh: float | None = None,
    legend: bool = True,
    keys: Sequence[Line2D] = (),
) -> Axes:
    """Draw ``{label: (C,)}``: classes side by side, the models of a class next to each other.

    With more than 30 classes the points become a line per model, and error bars a band.

    Args:
        values: a value per class; what is not finite is left out.
        names: (C,) of the classes, in the order of the values.
        intervals: ``{label: (2, C)}`` lower and upper ends of intervals of 95 %, which bars show; they may leave the
            picture where they are longer than all values together.
        over: what the intervals are over, for the legend.
        trainings: ``{label: (S, C)}`` of models that were trained several times: a pale bar of one standard deviation
            around their mean, which is the value, and a dot for each.
        bounds: of what the values can be, such as (0, 1) of accuracies: bars of a spread end there.
        flags: ``{label: (C,)}``, True for a value that is not converged: an open marker, which the legend explains.
        doubtful: ``{label: (C,)}``, True for a value within two errors of zero: a white dot in its marker.
        counts: (C,) training images, written below the names.
        xlabel: of the classes; by default it says how they are ordered, or what the counts are.
        floor: values below it are drawn on it as open markers.
        keys: more entries of the legend, such as for what other panels show.
        linthresh: the axis is linear between minus this and this, and logarithmic beyond; bars may leave it.
    """
    flags = {} if flags is None else flags
    many = len(names) > MANY
    with style():
        ax = new_axes(ax, width=PAGE)
        size = marker_size(ax, len(values), len(names))
        explained = list(keys)
        for i, ((label, v), at) in enumerate(zip(values.items(), offsets(len(values), len(names)), strict=True)):
            ax.plot(at, v, "-" if many else marker(i), color=color(i), markersize=size, label=label)
            if trainings is not None and label in trainings:
                draw_trainings(ax, at, trainings[label], color(i), size, many, bounds)
            if intervals is not None:
                draw_intervals(ax, at, intervals[label], color(i), many)
            below = np.zeros(len(names), bool) if floor is None else v < floor
            opened = np.asarray(flags.get(label, np.zeros(len(names))), dtype=bool) & ~below
            if opened.any():
                ax.plot(at[opened], v[opened], marker(i), color=color(i), markersize=size, **OPEN)
            if doubtful is not None and not many and draw_doubtful(ax, at, v, doubtful[label] & ~below, size):
                explained.append(doubtful_key())
            if below.any():
                on_floor = np.full(below.sum(), floor)
                ax.plot(at[below], on_floor, marker(i), color=color(i), markersize=size, clip_on=False, **OPEN)
        if not many:
            for edge in np.arange(1, len(names)) - 0.5:
                ax.axvline(edge, color="0.92", linewidth=0.5, zorder=0)
        if not many or counts is not None:
            label_classes(ax, names, counts, xlabel)
        else:
            ax.set_xlabel(class_label(counts) if xlabel is None else xlabel)
        if log:
            ax.set_yscale("log")
        elif intervals is not None and linthresh is None:
            limit_bars(ax, list(values.values()))
        if floor is not None:
            ax.set_ylim(bottom=floor)
        elif any((v < 0).any() for v in values.values()):
            ax.axhline(0, color="0.6", linewidth=0.6, zorder=0)
        if linthresh is not None:
            ax.relim()  # of the values alone: bars that reach across zero would take up most of the axis
            set_symlog(ax, "y", linthresh)
        ax.set(ylabel=ylabel, title=title or "")
        if legend:
            if intervals is not None and any(np.isfinite(ends).all(axis=0).any() for ends in intervals.values()):
                explained.append(bars_key(over, "bands" if many else "bars"))
            if any(np.any(f) for f in flags.values()):
                explained.append(not_converged())
            explained = [*trainings_key((trainings or {}).values(), dots=not many), *explained]
            legend_above(ax, title, list({str(key.get_label()): key for key in explained}.values()))
    return ax


def limit_bars(ax: Axes, values: Sequence[np.ndarray]) -> None:
    """Let bars leave the picture beyond twice the range of the values and of zero, so that values can be told apart."""
    known = np.concatenate([np.ravel(v)[np.isfinite(np.ravel(v))] for v in values])
    if not len(known):
        return
    low, high = min(known.min(), 0.0), max(known.max(), 0.0)
    room = high - low
    bottom, top = ax.get_ylim()
    if room > 0:
        ax.set_ylim(max(bottom, low - room), min(top, high + room))


def draw_intervals(
    ax: Axes, at: np.ndarray, bounds: np.ndarray, color: str, many: bool, linewidth: float = 0.8, alpha: float = 1
) -> None:
    """Bars, or with many classes a band, from ``bounds[0]`` to ``bounds[1]`` (2, C) where both are finite."""
    known = np.isfinite(bounds).all(axis=0)
    if many:
        ax.fill_between(at, bounds[0], bounds[1], where=known, color=color, alpha=0.18, linewidth=0)
    elif known.any():
        ax.vlines(at[known], *bounds[:, known], color=color, linewidth=linewidth, alpha=alpha)
