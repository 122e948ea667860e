"""Per-class extreme eigenvalues of the Hessian, methods side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from sharpness.plots import PAGE, new_figure, plot_class_values, style
from sharpness.results import EigenvalueResult


def draw_curvature(results: Mapping[str, EigenvalueResult], train_counts: Sequence[int]) -> Figure:
    """Largest eigenvalue and size of the most negative one, on one logarithmic scale, classes by training images."""
    first = next(iter(results.values()))
    order = np.argsort(-np.asarray(train_counts), kind="stable")
    names = [f"{first.class_names[c]}\n{train_counts[c]}" for c in order]
    positive = [np.abs(r.values[r.values != 0]) for r in results.values()]
    low, high = (f(np.concatenate(positive)) for f in (np.nanmin, np.nanmax))
    with style():
        figure = new_figure(PAGE, 4.2)
        axes = figure.subplots(2, 1, sharex=True, sharey=True)
        for ax, sign, label in zip(
            axes, (1, -1), (r"$\lambda_\mathrm{max}$", r"$-\lambda_\mathrm{min}$"), strict=True
        ):
            values = {}
            for name, r in results.items():
                chosen = sign * (r.largest if sign > 0 else r.smallest)[order]
                values[name] = np.where(chosen > 0, chosen, np.nan)
            plot_class_values(
                values, names, ax, ylabel=f"Hessian {label}", log=True, legend=sign > 0,
                xlabel="Class and its training images" if sign < 0 else "",
            )  # fmt: skip
        axes[0].set_ylim(low / 2, high * 2)
    return figure
