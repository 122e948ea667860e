"""A loss over a plane, as contours or as a surface: small multiples on one scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, Normalize
from matplotlib.ticker import MaxNLocator
from mpl_toolkits.mplot3d.axes3d import Axes3D

from sharpness.plots.style import PAGE, SURFACE_COLORS, new_axes, shown_figure, style

Panel = tuple[np.ndarray, np.ndarray, np.ndarray]


def shared_levels(surfaces: Sequence[np.ndarray], number: int = 12, clip: float = 0.9) -> np.ndarray:
    """Contour levels (number + 1,) that all surfaces share.

    Evenly spaced in the square root of the height above the lowest point, so that the bottom of the bowls shows,
    from there up to the ``clip`` quantile of all finite values: a single steep corner does not wash out the rest.

    >>> shared_levels([np.array([[0.0, 4.0]])], number=2, clip=1.0).tolist()
    [0.0, 1.0, 4.0]
    """
    values = np.concatenate([s[np.isfinite(s)] for s in surfaces])
    low, high = float(values.min()), float(np.quantile(values, clip))
    if high <= low:
        high = low + max(abs(low), 1.0) * 1e-6
    return low + (high - low) * np.linspace(0, 1, number + 1) ** 2


def plot_contours(
    panels: Mapping[str, Panel],
    axes: Axes | Sequence[Axes] | None = None,
    *,
    levels: np.ndarray | None = None,
    colorbar: bool = True,
    titles: bool = True,
    xlabel: str = "Direction 1",
    ylabel: str = "Direction 2",
    label: str = "Loss",
) -> list[Axes]:
    """Filled contours of ``{label: (x (nx,), y (ny,), z (ny, nx))}``, one panel each, levels shared.

    Values above the last level have its colour; cells that are not finite stay grey. A dot marks the model.
    """
    with style():
        places = _places(axes, len(panels), 1.75)
        levels = shared_levels([z for _, _, z in panels.values()]) if levels is None else levels
        norm = BoundaryNorm(levels, 256, extend="max")
        for ax, (name, (x, y, z)) in zip(places, panels.items(), strict=True):
            ax.set_facecolor("0.8")
            finite = np.ma.masked_invalid(z)
            ax.contourf(x, y, finite, levels=levels, norm=norm, cmap=SURFACE_COLORS, extend="max")
            ax.contour(x, y, finite, levels=levels[1::2], colors="white", linewidths=0.4, alpha=0.8)
            ax.plot(0, 0, "o", color="white", markeredgecolor="black", markersize=3.5, markeredgewidth=0.6)
            ax.set_aspect("equal")
            ax.set(xlabel=xlabel, title=name if titles else "")
        places[0].set_ylabel(ylabel)
        for ax in places[1:]:
            ax.tick_params(labelleft=False)
        if colorbar:
            _colorbar(places, norm, levels[::3], label)
    return places


def plot_surfaces(
    panels: Mapping[str, Panel],
    axes: Axes | Sequence[Axes] | None = None,
    *,
    levels: np.ndarray | None = None,
    colorbar: bool = True,
    titles: bool = True,
    label: str = "Loss",
) -> list[Axes]:
    """Surfaces of ``{label: (x, y, z)}`` on common axes and colours, cut off flat at the last shared level."""
    with style():
        places = _places(axes, len(panels), 1.9, projection="3d")
        levels = shared_levels([z for _, _, z in panels.values()]) if levels is None else levels
        norm = Normalize(levels[0], levels[-1])
        for ax, (name, (x, y, z)) in zip(places, panels.items(), strict=True):
            assert isinstance(ax, Axes3D)
            cut = np.where(np.isfinite(z), np.minimum(z, levels[-1]), np.nan)
            grid_x, grid_y = np.meshgrid(x, y)
            ax.plot_surface(
                grid_x, grid_y, cut, cmap=SURFACE_COLORS, norm=norm, rstride=1, cstride=1, linewidth=0.1,
                edgecolor=(1, 1, 1, 0.25),
            )  # fmt: skip
            ax.set_zlim(levels[0], levels[-1])
            ax.set_xlim(x[0], x[-1])
            ax.set_ylim(y[0], y[-1])
            ax.view_init(elev=28, azim=-60)
            ax.tick_params(pad=-3, labelsize=5.5)
            ax.set_box_aspect((1, 1, 0.8), zoom=1.12)
            ax.set_xticks([(3 * x[0] + x[-1]) / 4, (x[0] + 3 * x[-1]) / 4])
            ax.set_yticks([(3 * y[0] + y[-1]) / 4, (y[0] + 3 * y[-1]) / 4])
            ax.zaxis.set_major_locator(MaxNLocator(4, prune="both"))
            ax.set_title(name if titles else "", y=1.06)
            for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
                axis.pane.set_facecolor((1, 1, 1, 0))
        if colorbar:
            _colorbar(places, norm, np.linspace(levels[0], levels[-1], 5), label)
    return places


def _places(axes: Axes | Sequence[Axes] | None, number: int, height: float, **options: Any) -> list[Axes]:
    """The Axes to draw on: those given, or a new row."""
    if axes is None:
        if number == 1:
            return [new_axes(None, height=2.6, **options)]
        figure = shown_figure(min(PAGE, 1 + 1.45 * number), height)
        return list(np.ravel(figure.subplots(1, number, subplot_kw=options)))
    places = list(np.ravel(np.asarray(axes, dtype=object)))
    if len(places) != number:
        raise ValueError(f"{number} panels need {number} Axes, {len(places)} were given")
    return places


def _colorbar(places: list[Axes], norm: Normalize, ticks: np.ndarray, label: str) -> None:
    """One bar for all panels."""
    figure = places[0].get_figure(root=False)
    assert figure is not None
    bar = figure.colorbar(
        ScalarMappable(norm, SURFACE_COLORS),
        ax=places,
        label=label,
        shrink=0.85,
        pad=0.02,
        aspect=20,
        extend="max",
    )
    bar.set_ticks(ticks.tolist())
    small = 1e-3 * float(np.abs(ticks).max())
    bar.set_ticklabels([f"{0.0 if abs(v) < small else v:.2g}" for v in ticks])
    bar.minorticks_off()
