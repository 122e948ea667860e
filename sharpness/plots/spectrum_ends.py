"""Both ends of the Hessian's spectrum per class: how sharp a minimum is, and how much of a saddle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Unpack

import numpy as np
from matplotlib.axes import Axes

from sharpness.keywords import Default, typed_keywords
from sharpness.plots.bars import ClassPoints, ValueOptions, Values, limit_bars, plot_class_values
from sharpness.plots.labels import grey, label_classes, legend_above
from sharpness.plots.options import AxisOptions
from sharpness.plots.scales import set_log, set_symlog
from sharpness.plots.style import PAGE, new_axes, style


class EndOptions(AxisOptions, total=False):
    """Options of :func:`plot_spectrum_ends`.

    Attributes:
        intervals: of the largest and of the smallest, each ``{label: (2, C)}`` lower and upper ends of 95 % intervals.
        over: the source of variation of the intervals, for the legend.
        doubtful: of both, each ``{label: (C,)}``, True within two errors of zero: a white dot in the marker.
        trainings: of the largest and of the smallest, each ``{label: (S, C)}`` of models that were trained several
            times: a pale bar of one standard deviation around their mean, which is the value, and a dot for each.
        flags: of the largest and of the smallest, each ``{label: (C,)}``, True if not converged: open markers.
        counts: (C,) training images, written below the names.
        linthresh: the axis is linear between minus this and this, and logarithmic beyond.
        log: the same, with a threshold chosen from the values.
    """

    intervals: tuple[Values, Values] | None
    over: Annotated[str, Default("")]
    doubtful: tuple[Values, Values] | None
    trainings: tuple[Values, Values] | None
    flags: tuple[Values, Values] | None
    counts: np.ndarray | None
    linthresh: float | None


@typed_keywords(ylabel=r"Hessian $\lambda_\mathrm{min}$ and $\lambda_\mathrm{max}$")
def plot_spectrum_ends(
    largest: Values, smallest: Values, names: Sequence[str], ax: Axes | None = None, **options: Unpack[EndOptions]
) -> Axes:
    """Draw the spectrum of every class as a line from its smallest to its largest eigenvalue, models side by side.

    With more than 30 classes, a model has two curves: the largest eigenvalues, and dashed the smallest. With more than
    200, curves are medians of neighbouring classes with bands of 90 %, and the ten largest eigenvalues are named.

    Args:
        largest: ``{label: (C,)}`` largest eigenvalues, NaN for none.
        smallest: ``{label: (C,)}`` smallest eigenvalues of the same models.
        names: (C,) names of the classes, in the order of the values.
        options: see :class:`EndOptions`.
    """
    intervals, trainings, linthresh = options["intervals"], options["trainings"], options["linthresh"]
    log_axis = options["log"] or linthresh is not None
    with style():
        ax = new_axes(ax, width=PAGE, height=2.8)
        points = ClassPoints(ax, list(largest), len(names), log=log_axis)
        for label in largest:
            # With many classes, a model has two curves, because lines between their ends would overlap.
            if not points.many:
                ends = smallest[label], largest[label]
                ax.vlines(points.places[label], *ends, color=points.colors[label], linewidth=0.8, alpha=0.7)
            for end, values in enumerate((largest[label], smallest[label])):
                flagged, doubted, trained = (
                    None if pair is None else pair[end].get(label)
                    for pair in (options["flags"], options["doubtful"], trainings)
                )
                points.draw(label, values, ("-", "--")[end], flagged, doubted, trained, named=not end)
        if linthresh is not None:
            set_symlog(ax, "y", linthresh)
        elif options["log"]:
            set_log(ax, "y", [*largest.values(), *smallest.values()])
        for of_end in intervals or ():
            for label, bounds in of_end.items():
                points.draw_intervals(label, bounds, linewidth=0.6 * points.size, alpha=0.4)
        ax.axhline(0, color="black", linewidth=0.6, zorder=1)
        label_classes(ax, names, options["counts"], options["xlabel"])
        points.separate_classes()
        ax.margins(y=0.08)
        ax.set(ylabel=options["ylabel"], title=options["title"] or "")
        if intervals is not None and not log_axis:
            limit_bars(ax, [*largest.values(), *smallest.values()])
        points.name_largest(largest, names)
        if options["legend"]:
            extra = points.trainings_keys()
            extra += [grey(r"dashed: $\lambda_\mathrm{min}$", linestyle="--")] if points.many else []
            legend_above(ax, options["title"], [*extra, *points.keys(options["over"])])
    return ax


@typed_keywords(ylabel=r"Saddle indicator $|\lambda_\mathrm{min}|\,/\,\lambda_\mathrm{max}$")
def plot_saddle_indicator(
    ratio: Values, names: Sequence[str], ax: Axes | None = None, **options: Unpack[ValueOptions]
) -> Axes:
    """Draw ``{label: (C,)}``, the most negative curvature of every class over its most positive one.

    A minimum has 0, so a smallest eigenvalue above zero must count as zero. At 1, the loss of the class curves down in
    one direction as much as up in another. Lines mark 0 and 1.

    Args:
        ratio: the indicator, NaN for none.
        names: (C,) names of the classes.
        options: see :class:`~sharpness.plots.bars.ValueOptions`.
    """
    with style():
        ax = plot_class_values(ratio, names, ax, **options)
        label_classes(ax, names, options["counts"], options["xlabel"])
        top = max(1.0, ax.get_ylim()[1])  # both lines are always in the picture
        ax.set_ylim(-0.04 * top, 1.05 * top)
        for height, text in ((0, "minimum"), (1, "balanced\nsaddle")):
            ax.axhline(height, color="0.4", linewidth=0.8, linestyle="--", zorder=1)
            ax.annotate(
                text, (1, height), xycoords=("axes fraction", "data"), xytext=(3, 0), textcoords="offset points",
                va="center", fontsize=7, color="0.3",
            )  # fmt: skip
    return ax
