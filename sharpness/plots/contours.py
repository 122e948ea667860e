"""A plane on one Axes: filled contours, contour lines with their values, or a raster of its cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.patches import Patch, PathPatch

from sharpness.plots.frames import NARROW
from sharpness.plots.heatmap import NO_VALUE
from sharpness.plots.labels import size_of
from sharpness.plots.levels import DIVERGING, Levels, level_labels
from sharpness.plots.panels import Panel, cell_edges, cells_path

#: Style of the area above the last level in pictures of lines.
BEYOND: dict[str, Any] = {"colors": ["0.9"], "zorder": 0.8}
#: The fraction of a colour map that is visible on paper.
DARK = 0.78


def line_colors(colors: str) -> LinearSegmentedColormap:
    """A colour map without its palest colours, which are not visible as lines on paper."""
    full = colormaps[colors]
    ends = (1 - DARK, 1.0) if colors.endswith("_r") else (0.0, DARK)
    return LinearSegmentedColormap.from_list(f"dark_{colors}", full(np.linspace(*ends, 256)))


def line_map(colors: str) -> Colormap:
    """The colour map of lines; a dark one instead of a diverging map, whose pale middle would not be visible."""
    return colormaps["managua"] if colors in DIVERGING else line_colors(colors)


def draw_filled(ax: Axes, panel: Panel, levels: Levels, colors: str) -> list[Patch]:
    """Draw bands between levels, with thin lines on every second, and return the key to what is not on the scale.

    Contours end next to cells that are not finite; there, cells are drawn in the colours of their bands.
    """
    look: dict[str, Any] = {"norm": levels.bands(), "cmap": levels.colors(colors, bands=True)}
    z = np.ma.masked_invalid(panel.z)
    if _has_area(z):
        ax.contourf(panel.x, panel.y, z, levels=levels.edges, extend=levels.extend, zorder=1, **look)
        between = _crossed(levels.edges[1::2], panel.z)
        if len(between):
            ax.contour(
                panel.x,
                panel.y,
                z,
                levels=between,
                colors="0.35" if colors in DIVERGING else "white",
                linewidths=0.4,
                alpha=0.8,
                zorder=2,
            )
    beside = np.isfinite(panel.z) & scipy.ndimage.binary_dilation(~np.isfinite(panel.z), np.ones((3, 3)))
    if beside.any():
        _draw_cells(ax, panel, beside, zorder=0.5, **look)
    return _draw_not_finite(ax, panel)


def draw_contours(ax: Axes, panel: Panel, levels: Levels, colors: str) -> list[Patch]:
    """Draw contour lines, some of them labelled, and grey above the last level.

    A narrow panel has every second line of a wide one.
    """
    z = np.ma.masked_invalid(panel.z)
    keys = []
    narrow = size_of(ax)[0] < NARROW
    lines, named = (levels.edges[::2], levels.edges[4:-1:4]) if narrow else (levels.edges, levels.edges[3:-1:3])
    # Only levels that the surface crosses, because matplotlib warns if it finds none.
    between = _crossed(lines, panel.z)
    if _has_area(z) and len(between):
        strong = np.isin(between, named)
        drawn = ax.contour(
            panel.x, panel.y, z, levels=between, norm=levels.shades(), cmap=line_map(colors), zorder=2,
            linewidths=np.where(strong, 1.0, 0.5).tolist(),
        )  # fmt: skip
        texts = dict(zip(named, level_labels(named, levels.log), strict=True))
        if strong.any():
            ax.clabel(drawn, between[strong], fmt=texts, fontsize=5.5 if narrow else 6, inline_spacing=2, zorder=2.5)
    elif np.isfinite(panel.z).any():
        ax.annotate(
            _height(lines, panel.z, levels.log),
            (0.5, 0.05),
            xycoords="axes fraction",
            ha="center",
            fontsize=5.5,
            color="0.3",
        )
    top = float(levels.edges[-1])
    if _has_area(z) and bool((z > top).any()):
        ax.contourf(panel.x, panel.y, z, levels=[top, float(z.max()) + abs(float(z.max())) + 1], **BEYOND)
        keys.append(Patch(label="above the last line", facecolor=BEYOND["colors"][0]))
    return [*keys, *_draw_not_finite(ax, panel)]


def draw_heatmap(ax: Axes, panel: Panel, levels: Levels, colors: str) -> list[Patch]:
    """Draw every cell in the colour of its band, without interpolation."""
    _draw_cells(
        ax, panel, np.isfinite(panel.z), whole=True, norm=levels.bands(), cmap=levels.colors(colors, bands=True)
    )
    return _draw_not_finite(ax, panel, whole=True)


def _height(lines: np.ndarray, z: np.ndarray, log: bool) -> str:
    """Text for a surface that crosses no line: the lines between which it lies."""
    texts = level_labels(lines, log)
    highest = np.nanmax(np.where(np.isfinite(z), z, np.nan))
    if highest < lines[0]:
        return f"below {texts[0]}"
    above = int(np.searchsorted(lines, highest))
    return f"above {texts[-1]}" if above == len(lines) else f"{texts[max(above - 1, 0)]} to {texts[max(above, 1)]}"


def _has_area(z: np.ma.MaskedArray) -> bool:
    """True if any square of the grid has three finite corners."""
    known = (~np.ma.getmaskarray(z)).astype(int)
    return bool((known[1:, 1:] + known[1:, :-1] + known[:-1, 1:] + known[:-1, :-1] >= 3).any())


def _crossed(levels: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Levels between the lowest and the highest finite value."""
    finite = z[np.isfinite(z)]
    return levels[(levels > finite.min(initial=np.inf)) & (levels < finite.max(initial=-np.inf))]


def _draw_cells(ax: Axes, panel: Panel, chosen: np.ndarray, whole: bool = False, **look: Any) -> None:
    edges = cell_edges(panel.x, whole), cell_edges(panel.y, whole)
    ax.pcolormesh(*edges, np.ma.masked_where(~chosen, panel.z), rasterized=panel.z.size > 10_000, **look)


def _draw_not_finite(ax: Axes, panel: Panel, whole: bool = False) -> list[Patch]:
    """Hatch exactly the cells that are not finite."""
    missing = ~np.isfinite(panel.z)
    if not missing.any():
        return []
    path = cells_path(cell_edges(panel.x, whole), cell_edges(panel.y, whole), missing)
    ax.add_patch(PathPatch(path, gid="not finite", zorder=1.5, **NO_VALUE))
    return [Patch(label="not finite", **NO_VALUE)]
