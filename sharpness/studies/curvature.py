"""Per-class extreme eigenvalues of the Hessian, methods side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sharpness.plots import PAGE, new_figure, plot_class_values, style
from sharpness.results import EigenvalueResult
from sharpness.results.comparison import each, first_of, means, spreads

#: Decades below the largest eigenvalue that the picture shows.
DECADES = 5


def draw_curvature(results: Mapping[str, Any], train_counts: Sequence[int]) -> Figure:
    """Largest eigenvalue and size of the most negative one, on one logarithmic scale, classes by training images.

    What is smaller than a hundred thousandth of the largest value stands on the axis as an open marker; an end of the
    spectrum with the other sign is left out. Of several trainings of a model mean and spread.
    """
    first = first_of(results)
    order = np.argsort(-np.asarray(train_counts), kind="stable")
    names = [f"{first.class_names[c]}\n{train_counts[c]}" for c in order]
    sizes = np.abs(np.stack([r.values for r in each(results).values()]))
    top, bottom = float(np.nanmax(sizes)), float(np.min(sizes[sizes > 0], initial=np.inf))
    floor = 10.0 ** np.floor(np.log10(max(top / 10**DECADES, min(bottom, top))))
    with style():
        figure = new_figure(PAGE, 4.2)
        axes = figure.subplots(2, 1, sharex=True, sharey=True)
        for ax, sign, label in zip(axes, (1, -1), (r"$\lambda_\mathrm{max}$", r"$-\lambda_\mathrm{min}$"), strict=True):

            def end(r: EigenvalueResult, sign: int = sign) -> np.ndarray:
                chosen = sign * (r.largest if sign > 0 else r.smallest)[order]
                return np.where(chosen > 0, chosen, np.nan)

            def bounds(r: EigenvalueResult, sign: int = sign) -> np.ndarray:
                ends = sign * r.intervals[:, order, 0 if sign > 0 else -1]
                return np.where(end(r) > 0, np.sort(ends, axis=0), np.nan)

            plot_class_values(
                means(results, end), names, ax, intervals=means(results, bounds),
                over=first.over, trainings=spreads(results, end),
                ylabel=f"Hessian {label}", log=True, legend=sign > 0, floor=floor,
                xlabel="Class and its training images" if sign < 0 else "",
            )  # fmt: skip
        axes[0].set_ylim(top=2 * top)
        if bottom < floor:
            note = f"open markers: below {floor:g}"
            axes[1].annotate(note, (1, 1), xycoords="axes fraction", ha="right", va="bottom", fontsize=7)
    return figure
