"""One value per class and model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from sharpness.plots.style import PAGE, color, marker, new_axes, style


def plot_class_values(
    values: Mapping[str, np.ndarray],
    names: Sequence[str],
    ax: Axes | None = None,
    *,
    errors: Mapping[str, np.ndarray] | None = None,
    title: str | None = None,
    xlabel: str = "Class, most to fewest images",
    ylabel: str = "",
    log: bool = False,
    floor: float | None = None,
    legend: bool = True,
) -> Axes:
    """Draw ``{label: (C,)}``: classes side by side, the models of a class next to each other.

    Values below ``floor`` are drawn on it as open markers. With ``errors`` bars show 1.96 standard errors. With more
    than 30 classes the points become a line per model.
    """
    with style():
        ax = new_axes(ax, width=PAGE)
        position = np.arange(len(names))
        many = len(names) > 30
        for i, (label, v) in enumerate(values.items()):
            offset = 0 if many else (i - (len(values) - 1) / 2) * 0.7 / max(len(values), 1)
            bars = None if errors is None else 1.96 * np.nan_to_num(errors[label])
            ax.errorbar(
                position + offset,
                v,
                yerr=bars if bars is not None and bars.any() else None,
                fmt="-" if many else marker(i),
                color=color(i),
                elinewidth=0.8,
                label=label,
            )
            if floor is not None and (v < floor).any():
                below = (position + offset)[v < floor]
                at = np.full(len(below), floor)
                ax.plot(below, at, marker(i), color=color(i), markerfacecolor="white", clip_on=False, zorder=5)
        if not many:
            ax.set_xticks(position, names)
            for edge in position[:-1] + 0.5:
                ax.axvline(edge, color="0.92", linewidth=0.5, zorder=0)
            ax.set_xlim(-0.5, len(names) - 0.5)
        if log:
            ax.set_yscale("log")
        if floor is not None:
            ax.set_ylim(bottom=floor)
        elif any(np.nanmin(v) < 0 for v in values.values() if np.isfinite(v).any()):
            ax.axhline(0, color="0.6", linewidth=0.6, zorder=0)
        ax.set(xlabel=xlabel, ylabel=ylabel, title=title or "")
        if legend:
            ax.legend(ncols=min(len(values), 5), loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
    return ax
