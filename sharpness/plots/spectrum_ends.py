"""Both ends of the Hessian's spectrum per class: how sharp a minimum is, and how much of a saddle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from sharpness.plots.bars import draw_intervals, limit_bars, plot_class_values
from sharpness.plots.labels import (
    MANY,
    OPEN,
    bars_key,
    doubtful_key,
    draw_doubtful,
    grey,
    label_classes,
    legend_above,
    marker_size,
    not_converged,
    offsets,
)
from sharpness.plots.scales import set_symlog
from sharpness.plots.style import PAGE, color, marker, new_axes, style
from sharpness.plots.trainings import draw_trainings, trainings_key

Values = Mapping[str, np.ndarray]


def plot_spectrum_ends(
    largest: Values,
    smallest: Values,
    names: Sequence[str],
    ax: Axes | None = None,
    *,
    intervals: tuple[Values, Values] | None = None,
    over: str = "",
    doubtful: tuple[Values, Values] | None = None,
    trainings: tuple[Values, Values] | None = None,
    flags: tuple[Values, Values] | None = None,
    counts: np.ndarray | None = None,
    title: str | None = None,
    xlabel: str | None = None,
    ylabel: str = r"Hessian $\lambda_\mathrm{min}$ and $\lambda_\mathrm{max}$",
    linthresh: float | None = None,
    legend: bool = True,
) -> Axes:
    """Draw the spectrum of every class as a line from its smallest to its largest eigenvalue, models side by side.

    With more than 30 classes a model is two curves, the largest eigenvalues and dashed the smallest.

    Args:
        largest: ``{label: (C,)}`` largest eigenvalues, NaN for none.
        smallest: ``{label: (C,)}`` smallest eigenvalues of the same models.
        names: (C,) of the classes, in the order of the values.
        intervals: of the largest and of the smallest, each ``{label: (2, C)}`` lower and upper ends of 95 %.
        over: what the intervals are over, for the legend.
        doubtful: of both, each ``{label: (C,)}``, True within two errors of zero: a white dot in the marker.
        trainings: of the largest and of the smallest, each ``{label: (S, C)}`` of models that were trained several
            times: a pale bar of one standard deviation around their mean, which is the value, and a dot for each.
        flags: of the largest and of the smallest, each ``{label: (C,)}``, True where not converged: open markers.
        counts: (C,) training images, written below the names.
        linthresh: the axis is linear between minus this and this, and logarithmic beyond; linear throughout if None.
    """
    many = len(names) > MANY
    with style():
        ax = new_axes(ax, width=PAGE, height=2.8)
        size = marker_size(ax, len(largest), len(names))
        extra = [grey(r"dashed: $\lambda_\mathrm{min}$", linestyle="--")] if many else []
        for i, (label, at) in enumerate(zip(largest, offsets(len(largest), len(names)), strict=True)):
            if not many:
                ax.vlines(at, smallest[label], largest[label], color=color(i), linewidth=0.8, alpha=0.7)
            for end, values in enumerate((largest[label], smallest[label])):
                ax.plot(
                    at, values, ("-", "--")[end] if many else marker(i), color=color(i), markersize=size,
                    label=None if end else label,
                )  # fmt: skip
                if trainings is not None and label in trainings[end]:
                    draw_trainings(ax, at, trainings[end][label], color(i), size, many)
                if intervals is not None:
                    draw_intervals(ax, at, intervals[end][label], color(i), many, linewidth=0.6 * size, alpha=0.4)
                could_be_zero = None if doubtful is None or many else doubtful[end][label]
                if could_be_zero is not None and draw_doubtful(ax, at, values, could_be_zero, size):
                    extra.append(doubtful_key())
                if flags is not None and np.any(flags[end][label]):
                    opened = np.asarray(flags[end][label], dtype=bool)
                    ax.plot(at[opened], values[opened], marker(i), color=color(i), markersize=size, **OPEN)
        ax.axhline(0, color="black", linewidth=0.6, zorder=1)
        for edge in [] if many else np.arange(1, len(names)) - 0.5:
            ax.axvline(edge, color="0.92", linewidth=0.5, zorder=0)
        label_classes(ax, names, counts, xlabel)
        ax.margins(y=0.08)
        if linthresh is not None:
            set_symlog(ax, "y", linthresh)
        ax.set(ylabel=ylabel, title=title or "")
        if intervals is not None and linthresh is None:
            limit_bars(ax, [*largest.values(), *smallest.values()])
        if legend:
            extra = [*trainings_key(trainings[0].values() if trainings else [], dots=not many), *extra]
            if flags is not None and any(np.any(f) for end in flags for f in end.values()):
                extra.append(not_converged())
            if intervals is not None:
                extra.append(bars_key(over, "bands" if many else "bars"))
            legend_above(ax, title, list({str(key.get_label()): key for key in extra}.values()))
    return ax


def plot_saddle_indicator(
    ratio: Values,
    names: Sequence[str],
    ax: Axes | None = None,
    *,
    intervals: Values | None = None,
    trainings: Values | None = None,
    flags: Values | None = None,
    counts: np.ndarray | None = None,
    title: str | None = None,
    xlabel: str | None = None,
    ylabel: str = r"Saddle indicator $|\lambda_\mathrm{min}|\,/\,\lambda_\mathrm{max}$",
    legend: bool = True,
) -> Axes:
    """Draw ``{label: (C,)}``, the most negative curvature of every class over its most positive one.

    A minimum has 0: a smallest eigenvalue above zero has to count as zero. At 1 the loss of the class curves as much
    down in one direction as up in another. Options are those of :func:`plot_class_values`; lines mark 0 and 1.
    """
    with style():
        ax = plot_class_values(
            ratio, names, ax, intervals=intervals, trainings=trainings, flags=flags, counts=counts, title=title,
            xlabel=xlabel, ylabel=ylabel, legend=legend,
        )  # fmt: skip
        label_classes(ax, names, counts, xlabel)
        top = max(1.0, ax.get_ylim()[1])
        ax.set_ylim(-0.04 * top, 1.05 * top)
        for height, text in ((0, "minimum"), (1, "balanced\nsaddle")):
            ax.axhline(height, color="0.4", linewidth=0.8, linestyle="--", zorder=1)
            ax.annotate(
                text, (1, height), xycoords=("axes fraction", "data"), xytext=(3, 0), textcoords="offset points",
                va="center", fontsize=7, color="0.3",
            )  # fmt: skip
    return ax
