"""Per-class extreme eigenvalues of the Hessian for several methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sharpness.plots import PAGE, new_figure, plot_class_values, style
from sharpness.results import MeasureResult
from sharpness.results.comparison import each, first_of, means, spreads
from sharpness.results.words import named_coordinates

#: Measures that are drawn.
ENDS = ("lambda_max", "lambda_min")
#: Number of decades below the largest eigenvalue that the picture shows.
DECADES = 5


def draw_curvature(results: Mapping[str, Any], train_counts: Sequence[int]) -> Figure:
    """Draw the largest eigenvalue and the size of the most negative one, with classes sorted by training images.

    Both share a logarithmic scale. Values below a hundred-thousandth of the largest are drawn on the axis as open
    markers; an end of the spectrum with the opposite sign is omitted. For several trainings of a model, mean and spread
    are drawn.
    """
    first = first_of(results)
    order = np.argsort(-np.asarray(train_counts), kind="stable")
    names = [f"{first.class_names[c]}\n{train_counts[c]}" for c in order]
    sizes = np.abs([r[name].values for r in each(results).values() for name in ENDS])
    sizes = sizes[sizes > 0]
    top, bottom = float(sizes.max(initial=0)) or 1.0, float(sizes.min(initial=np.inf))
    # Values below the floor are drawn on it, because a value near zero would extend the axis over many decades.
    floor = 10.0 ** np.floor(np.log10(max(top / 10**DECADES, min(bottom, top))))
    where = named_coordinates(first.provenance).strip()
    with style():
        figure = new_figure(PAGE, 4.2)
        axes = figure.subplots(2, 1, sharex=True, sharey=True)
        for ax, name, sign in zip(axes, ENDS, (1, -1), strict=True):
            label = first.description(name).symbol.replace("$", "$" if sign > 0 else "$-", 1)

            def end(r: MeasureResult, name: str = name, sign: int = sign) -> np.ndarray:
                chosen = sign * r[name].values[order]
                return np.where(chosen > 0, chosen, np.nan)

            def bounds(r: MeasureResult, name: str = name, sign: int = sign) -> np.ndarray:
                ends = np.sort(sign * r[name].intervals[:, order], axis=0)
                return np.where(sign * r[name].values[order] > 0, ends, np.nan)

            plot_class_values(
                means(results, end), names, ax, intervals=means(results, bounds),
                over=first.over[first.names.index(name)], trainings=spreads(results, end),
                ylabel=f"Hessian {label}\n{where}", log=True, legend=sign > 0, floor=floor,
                xlabel="Class and its training images" if sign < 0 else "",
            )  # fmt: skip
        axes[0].set_ylim(top=2 * top)
        if bottom < floor:
            note = f"open markers: below {floor:g}"
            axes[1].annotate(note, (1, 1), xycoords="axes fraction", ha="right", va="bottom", fontsize=7)
    return figure
