"""The density of the eigenvalues of a Hessian."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np
from matplotlib.axes import Axes

from sharpness.errors import choose
from sharpness.keywords import typed_keywords
from sharpness.plots.labels import bars_key, grey, set_texts
from sharpness.plots.options import TextOptions
from sharpness.plots.scales import set_symlog
from sharpness.plots.style import colors_of, dash, marker, new_axes, style
from sharpness.plots.trainings import spread_ends, trainings_key

#: Grid (g,), density (g,), and the lower and upper bound (g,) of its band.
Curve = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
#: Maximum number of decades of a picture.
DECADES = 10


def density_floor(curves: Mapping[str, Curve]) -> float:
    """A power of ten below the lowest peak, which cuts off the tails of the smoothing.

    The peak of a single eigenvalue of k has 1 / k of the height of the bulk, so no fixed number of decades would fit.
    The floor is a decade or more below the lowest peak, and at most 10 decades below the highest.
    """
    top = max((float(np.nanmax(density)) for _, density, _, _ in curves.values()), default=1.0)
    top = top if np.isfinite(top) and top > 0 else 1.0
    lowest = top
    for _, d, _, _ in curves.values():
        peaks = d[1:-1][(d[1:-1] >= d[:-2]) & (d[1:-1] > d[2:])]
        lowest = float(np.min(peaks[peaks > top / 10**DECADES], initial=lowest))
    return 10.0 ** np.floor(np.log10(max(lowest / 10, top / 10**DECADES)))


@typed_keywords(xlabel="Hessian eigenvalue", ylabel="Spectral density")
def plot_density(
    curves: Mapping[str, Curve],
    ax: Axes | None = None,
    *,
    floor: float | None = None,
    linthresh: float | None = None,
    marks: Mapping[str, np.ndarray] | None = None,
    trainings: Mapping[str, np.ndarray] | None = None,
    **texts: Unpack[TextOptions],
) -> Axes:
    """Draw ``{label: (grid (g,), density (g,), lower (g,), upper (g,))}`` on a logarithmic axis, with bands.

    Args:
        curves: one per model; limits are common to all.
        floor: a curve ends where its density falls below this; by default that of :func:`density_floor`.
        linthresh: the x axis is linear between minus this and this, and logarithmic beyond; linear throughout if None.
        marks: ``{label: (m,)}`` eigenvalues to mark on the x axis, such as the largest and the smallest.
        trainings: ``{label: (S, g)}`` densities of models that were trained several times: their band is one standard
            deviation over the trainings.
        texts: see :class:`~sharpness.plots.options.TextOptions`.

    Raises:
        UserError: marks of a label that has no curve.
    """
    floor = density_floor(curves) if floor is None else floor
    order, spreads = list(curves), trainings or {}
    with style():
        ax = new_axes(ax)
        shades = dict(zip(order, colors_of(order), strict=True))
        for i, (label, (grid, density, lower, upper)) in enumerate(curves.items()):
            ax.plot(grid, _end_on(floor, density), color=shades[label], linestyle=dash(i), label=label)
            if label in spreads:
                lower, upper = spread_ends(spreads[label])
            ax.fill_between(
                grid, np.maximum(lower, floor), np.maximum(upper, floor), where=upper > floor, color=shades[label],
                alpha=0.2, linewidth=0,
            )  # fmt: skip
        ax.set_yscale("log")
        for label, eigenvalues in ({} if marks is None else marks).items():
            choose("label of marks", label, order)
            look: dict[str, Any] = {"color": shades[label], "markeredgecolor": "white", "markeredgewidth": 0.4}
            # On the floor, where no curve hides them, and not clipped, because half of each marker is below the axis.
            sign = marker(order.index(label))
            ax.plot(eigenvalues, np.full(len(eigenvalues), floor), sign, clip_on=False, zorder=5, **look)
        if linthresh is not None:
            set_symlog(ax, "x", linthresh)
        ax.set_ylim(bottom=floor)
        extra = trainings_key(spreads.values(), dots=False)
        extra += [grey("extreme eigenvalues", linestyle="", marker="o")] if marks else []
        if any(np.isfinite(upper).any() for label, (*_, upper) in curves.items() if label not in spreads):
            extra.append(bars_key("random vectors", "bands"))
        set_texts(ax, texts, extra)
    return ax


def _end_on(floor: float, density: np.ndarray) -> np.ndarray:
    """Cut the density at the floor: each piece above it ends on the floor, with gaps (NaN) between pieces."""
    shown = density >= floor
    beside = np.zeros_like(shown)
    beside[1:] |= shown[:-1]
    beside[:-1] |= shown[1:]
    return np.where(shown, density, np.where(beside & ~np.isnan(density), floor, np.nan))
