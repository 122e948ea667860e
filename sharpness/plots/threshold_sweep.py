"""Open-set numbers of several models over the threshold of rejection."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from sharpness.plots.lines import plot_line_panels
from sharpness.plots.style import COLORS

#: Titles of the panels by column.
PANELS = {
    "accuracy": "Known images right",
    "open_accuracy": "Open set rejected",
    "f_oltr_2020": "F-measure (oltr-2020)",
    "f_oltr_2019": "F-measure (oltr-2019)",
}


def plot_threshold_sweep(swept: pd.DataFrame, threshold: float) -> list[Axes]:
    """Draw accuracies after rejection and F over the threshold, a curve for each model.

    Args:
        swept: columns model, threshold, and those of :data:`PANELS`.
        threshold: the threshold used in tables, which is marked.
    """
    panels = {
        title: {
            str(model): (rows.threshold.to_numpy(), rows[column].to_numpy())
            for model, rows in swept.groupby("model", sort=False)
        }
        for column, title in PANELS.items()
    }
    return plot_line_panels(
        panels, xlabel="Threshold of the softmax probability", ylabel="Share", marks=[("", threshold)], colors=COLORS
    )
