"""A bound as a function of the radius, with the loss that it bounds; and its optimal radii by size of the class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Unpack

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from sharpness.keywords import typed_keywords
from sharpness.plots.labels import grey, set_texts
from sharpness.plots.options import TextOptions
from sharpness.plots.small_multiples import SmallMultiples, unique
from sharpness.plots.style import COLUMN, colors_of, marker, new_axes, style

#: Style of each curve of a bound, from theory to measurement.
LOOKS: dict[str, dict[str, Any]] = {
    "bound": {"color": "0.78", "linewidth": 3.2, "label": "bound"},
    "complexity": {"color": "black", "linestyle": ":", "label": "complexity term"},
    "linear": {"color": "#0072B2", "linestyle": "--", "label": "loss to first order"},
    "quadratic": {"color": "#009E73", "linestyle": "-.", "linewidth": 0.9, "label": "to second order"},
    "measured": {"color": "#D55E00", "marker": "o", "markersize": 2.2, "linewidth": 0.9, "label": "loss, measured"},
}
BEST: dict[str, Any] = {
    "linestyle": "",
    "marker": "o",
    "markersize": 4.5,
    "markerfacecolor": "black",
    "markeredgecolor": "white",
    "markeredgewidth": 0.5,
    "zorder": 5,
}
USED: dict[str, Any] = {"linestyle": (0, (1, 1)), "linewidth": 0.9, "zorder": 0.5}


class BoundCurve(NamedTuple):
    """A bound over radii, its terms, and the loss itself."""

    radii: np.ndarray  # (F,)
    loss: float  # without perturbation
    linear: np.ndarray  # (F,) the loss in a perturbation of that radius, to first order
    quadratic: np.ndarray  # (F,) to second order
    complexity: np.ndarray  # (F,)
    measured: np.ndarray  # (F,) the loss itself
    best: float  # the radius where the bound is smallest
    lowest: float  # the bound there
    used: float  # the radius that is actually used

    @property
    def bound(self) -> np.ndarray:
        return self.linear + self.complexity


@typed_keywords(xlabel=r"Radius $\rho$", ylabel="Loss")
def plot_bound(
    curve: BoundCurve,
    ax: Axes | None = None,
    **texts: Unpack[TextOptions],
) -> Axes:
    """Draw one bound on logarithmic axes: a dot at its minimum, a dotted line at the radius that is used, if different.

    The picture ends below the first-order loss, although terms continue to zero, and above the bound, although the loss
    of a network continues as a power of the radius.

    Args:
        texts: see :class:`~sharpness.plots.options.TextOptions`.
    """
    with style():
        ax = new_axes(ax, height=2.6)
        extra = _draw(ax, curve)
        ax.set_ylim(*_limits([curve]))
        set_texts(ax, texts, extra)
    return ax


@typed_keywords(xlabel=r"Radius $\rho$", ylabel="Loss")
def plot_bound_panels(
    panels: Mapping[str, BoundCurve],
    axes: Axes | Sequence[Axes] | None = None,
    *,
    columns: int | None = None,
    **texts: Unpack[TextOptions],
) -> list[Axes]:
    """Draw a panel of :func:`plot_bound` for each ``{title: curve}``, with common limits and one legend.

    Args:
        columns: columns of a new figure; by default at most four.
        texts: see :class:`~sharpness.plots.options.TextOptions`.

    Raises:
        UserError: the number of Axes is not that of the panels.
    """
    with style():
        multiples = SmallMultiples(len(panels), axes, columns or (4 if len(panels) > 6 else 3), height=1.35)
        handles: list[Any] = []
        for ax, (name, curve) in zip(multiples.places, panels.items(), strict=True):
            extra = _draw(ax, curve)
            handles += [*ax.get_legend_handles_labels()[0], *extra]
            ax.set_title(name, fontsize=7, pad=3)
        for ax in multiples.places:
            ax.set_ylim(*_limits(list(panels.values())))
        keys = unique(handles) if texts["legend"] else []
        return multiples.finish(texts["xlabel"] or "", texts["ylabel"], texts["title"], keys)


@typed_keywords(xlabel="Training images $n_c$ of the class", ylabel=r"Radius $\rho_c^*$")
def plot_radii(
    radii: Mapping[str, tuple[np.ndarray, np.ndarray]],
    ax: Axes | None = None,
    **texts: Unpack[TextOptions],
) -> Axes:
    """Draw ``{label: (n (C,), rho (C,))}`` on logarithmic axes.

    A dashed line in a model's colour shows the radii if classes only differed in size: proportional to
    :math:`(n_c - 1)^{-1/4}`, through the geometric mean of the radii. Deviations from it are due to the gradients.

    Args:
        texts: see :class:`~sharpness.plots.options.TextOptions`.
    """
    with style():
        ax = new_axes(ax)
        shades = colors_of(list(radii))
        for i, (label, (n, rho)) in enumerate(radii.items()):
            kept = np.isfinite(rho) & (rho > 0)
            n, rho = n[kept], rho[kept]
            ax.plot(n, rho, marker(i), color=shades[i], label=label)
            if len(rho):
                # The geometric mean gives the least-squares line on logarithmic axes.
                count = np.maximum(n - 1, 1) ** -0.25
                level = np.exp(np.mean(np.log(rho / count)))
                along = np.geomspace(max(n.min(), 2), max(n.max(), 2), 50)
                ax.plot(along, level * (along - 1) ** -0.25, "--", color=shades[i], linewidth=0.8, zorder=1)
        ax.set(xscale="log", yscale="log")
        set_texts(ax, texts, [grey(r"$\propto (n_c - 1)^{-1/4}$", linestyle="--", linewidth=0.8)])
    return ax


@typed_keywords(xlabel="Predicted rise of the loss", ylabel="Measured rise of the loss")
def plot_agreement(
    rises: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    ax: Axes | None = None,
    *,
    names: Sequence[str] | None = None,
    **texts: Unpack[TextOptions],
) -> Axes:
    """Draw ``{label: (first order (C,), second order (C,), measured (C,))}`` on logarithmic axes, and the diagonal.

    A filled marker is the first-order prediction of a class, an open one the second-order prediction, with a line
    between them. Rises that are not positive or not finite are left out; the legend has their number.

    Args:
        names: (C,) names of the classes, written next to the filled markers.
        texts: see :class:`~sharpness.plots.options.TextOptions`.
    """
    with style():
        ax = new_axes(ax, width=COLUMN, height=2.9)
        lost, shades = 0, colors_of(list(rises))
        for i, (label, (first, second, measured)) in enumerate(rises.items()):
            look: dict[str, Any] = {"linestyle": "", "marker": marker(i), "color": shades[i]}
            there = np.isfinite(measured) & (first > 0) & (measured > 0)
            lost += int((np.isfinite(first) & ~there).sum())
            # A second-order prediction may be non-positive, and off the axis, when the first-order one is not.
            bent = there & (second > 0)
            ax.hlines(measured[bent], first[bent], second[bent], color=shades[i], linewidth=0.6, alpha=0.6)
            ax.plot(second[bent], measured[bent], **look, markerfacecolor="white", markeredgewidth=0.8)
            ax.plot(first[there], measured[there], **look, label=label)
            near: dict[str, Any] = {"textcoords": "offset points", "fontsize": 6, "color": "0.3", "ha": "right"}
            for name, x, y, drawn in zip(names or (), first, measured, there, strict=False):
                if drawn:
                    ax.annotate(name, (x, y), (-3, 3), **near)
        ax.set(xscale="log", yscale="log")
        ax.axline((1, 1), (10, 10), color="0.5", linewidth=0.8, linestyle="--", zorder=0)
        extra = [
            grey("first order", linestyle="", marker="o"),
            grey("second order", linestyle="", marker="o", markerfacecolor="white", markeredgewidth=0.8),
            grey("equal", linestyle="--", linewidth=0.8),
        ]
        set_texts(ax, texts, [*extra, grey(f"not shown: {lost}", linestyle="")] if lost else extra)
    return ax


def _draw(ax: Axes, curve: BoundCurve) -> list[Any]:
    """Draw curves and marks, and return the legend entries of the marks."""
    for name, look in LOOKS.items():
        values = getattr(curve, name)
        kept = np.isfinite(values) & (values > 0)
        ax.plot(curve.radii, np.where(kept, values, np.nan), **look)
    ax.set(xscale="log", yscale="log")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(numticks=5))
        axis.set_minor_locator(NullLocator())
    extra = []
    if np.isfinite(curve.best) and curve.best > 0:
        ax.plot(curve.best, curve.lowest, gid="best", **BEST)
        extra.append(grey(r"minimum $\rho^*$", **BEST))
    if np.isfinite(curve.used) and curve.used > 0 and curve.used != curve.best:
        ax.axvline(curve.used, gid="used", color="0.4", **USED)
        extra.append(grey(r"radius used", **USED))
    return extra


def _limits(curves: Sequence[BoundCurve]) -> tuple[float, float]:
    """Limits of the loss axis: a third of the smallest first-order loss, and a little above the bound."""
    losses, bounds = (np.concatenate([getattr(c, name) for c in curves]) for name in ("linear", "bound"))
    seen = losses[np.isfinite(losses) & (losses > 0)]
    low = seen.min() / 3 if len(seen) else 1e-3
    return float(low), float(max(2 * bounds[np.isfinite(bounds)].max(initial=low), 10 * low))
