"""A loss over a plane, for several models and several classes: small multiples on one scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable

from sharpness.errors import UserError, choose
from sharpness.plots.contours import draw_contours, draw_filled, draw_heatmap
from sharpness.plots.frames import frame_plane, frame_surface, height_ratio, name_axes, name_row
from sharpness.plots.levels import Levels, level_labels, levels_of
from sharpness.plots.marks import draw_marks
from sharpness.plots.panels import Panel, check_panel
from sharpness.plots.style import COLUMN, PAGE, SURFACE_COLORS, shown_figure, style
from sharpness.plots.surfaces import draw_surface

#: ``f(ax, panel, levels, colors)`` draws, and returns the key to what is not on the scale.
DRAW = {"filled": draw_filled, "contour": draw_contours, "heatmap": draw_heatmap, "surface": draw_surface}
#: Panels of a single row before the next one begins.
ACROSS = 6
#: A panel, or ``(x (nx,), y (ny,), z (ny, nx))``.
PanelLike = Panel | tuple[np.ndarray, np.ndarray, np.ndarray]


def plot_planes(
    panels: Mapping[str, PanelLike], axes: Axes | Sequence[Axes] | None = None, **options: Any
) -> list[Axes]:
    """Draw ``{label: panel}`` side by side on levels and colours that all share; a panel may be ``(x, y, z)``.

    Options are those of :func:`plot_plane_grid`; there are at most six panels in a row of a new figure.
    """
    return plot_plane_grid({"": panels}, axes, **options)


def plot_plane_grid(
    rows: Mapping[str, Mapping[str, PanelLike]],
    axes: Axes | Sequence[Axes] | None = None,
    *,
    kind: str = "filled",
    scale: str = "clipped",
    clip: float | None = None,
    levels: np.ndarray | None = None,
    share: str = "row",
    points: bool = False,
    colorbar: bool = True,
    titles: bool = True,
    xlabel: str = "Direction 1",
    ylabel: str = "Direction 2",
    label: str = "Loss",
    colors: str = SURFACE_COLORS,
) -> list[Axes]:
    """Draw ``{row: {label: panel}}``: rows of classes, columns of models. The Axes come back row by row.

    Args:
        axes: as many as there are panels, row by row; new ones unless given.
        kind: ``"filled"`` contours, ``"contour"`` lines with their values, ``"heatmap"`` (a raster of the cells), or
            ``"surface"``.
        scale: ``"clipped"``, ``"linear"`` or ``"log"``, up to the quantile ``clip``: see :func:`shared_levels`. What is
            beyond the last level has one colour, and the bar an arrow.
        levels: (n,) to use instead.
        share: ``"row"``: every row has levels of its own; ``"all"``: all have the same ones.
        points: also draw a dot wherever a panel was evaluated.
        label: of the colour bar: the quantity and its unit.
        colors: a colour map of matplotlib's.

    Raises:
        UserError: an unknown kind or scale, another number of Axes, a panel without an area, nothing finite to draw.
    """
    choose("kind of picture", kind, list(DRAW))
    choose("share", share, ["row", "all"])
    table = {row: {name: Panel(*panel) for name, panel in panels.items()} for row, panels in rows.items()}
    for row, panels in table.items():
        for name, panel in panels.items():
            check_panel(f"{name} {row}".strip(), panel)
    scales = _scales(table, share, scale, clip, levels)
    with style():
        places = _places(axes, table, kind)
        keys: dict[str, Artist] = {}
        bands = np.split(np.array(places, dtype=object), np.cumsum([len(p) for p in table.values()])[:-1])
        for number, (band, (row, panels)) in enumerate(zip(bands, table.items(), strict=True)):
            own = list(band)
            for ax, (name, panel) in zip(own, panels.items(), strict=True):
                drawn: list[Any] = DRAW[kind](ax, panel, scales[row], colors)
                if kind == "surface":
                    frame_surface(ax, panel, scales[row])
                else:
                    frame_plane(ax, panel, whole=kind == "heatmap")
                    drawn = [*drawn, *draw_marks(ax, panel, points)]
                keys |= {str(key.get_label()): key for key in drawn}
                ax.set_title(name if titles and number == 0 else "", y=1.02 if kind == "surface" else None)
            columns = min(len(own), ACROSS) if axes is None and len(table) == 1 else len(own)
            name_axes(own, columns, xlabel, ylabel, bottom=number == len(table) - 1)
            if row:
                name_row(own[0], row)
            if colorbar and kind != "contour" and share == "row":
                _colorbar(own, scales[row], kind, label, colors)
        if colorbar and kind != "contour" and share == "all":
            _colorbar(places, next(iter(scales.values())), kind, label, colors)
        _explain(places, keys, axes is None)
    return places


def _scales(
    table: Mapping[str, Mapping[str, Panel]], share: str, scale: str, clip: float | None, levels: np.ndarray | None
) -> dict[str, Levels]:
    """The levels of every row."""
    values = {row: [panel.z for panel in panels.values()] for row, panels in table.items()}
    if share == "all":
        return dict.fromkeys(values, levels_of([z for zs in values.values() for z in zs], scale, clip, levels))
    return {row: levels_of(zs, scale, clip, levels) for row, zs in values.items()}


def _places(axes: Axes | Sequence[Axes] | None, table: Mapping[str, Mapping[str, Panel]], kind: str) -> list[Axes]:
    """The Axes to draw on: those given, or rows of a new figure that the panels fill."""
    counts = [len(panels) for panels in table.values()]
    number = sum(counts)
    if axes is not None:
        places = list(np.ravel(np.asarray(axes, dtype=object)))
        if len(places) != number:
            raise UserError(f"{number} panels need {number} Axes, {len(places)} were given")
        return places
    across = max(counts) if len(counts) > 1 else min(number, ACROSS)
    down = -(-number // across)
    width = COLUMN if across == 1 else min(PAGE, 1 + 1.9 * across)
    beside = 0.75 + (0.2 if len(counts) > 1 else 0) + (0 if kind == "contour" else 0.75)
    each = (width - beside) / across - 0.1
    surface = kind == "surface"
    ratios = [height_ratio(panel) for panels in table.values() for panel in panels.values()]
    ratio = 1.1 if surface else max(1.0 if r is None else r for r in ratios)
    figure = shown_figure(width, 0.8 + down * (each * ratio + 0.1))
    if surface:
        named = 0.25 / width if len(counts) > 1 else 0.0  # the layout does not see text beside 3-D axes
        figure.set_layout_engine(
            "constrained", w_pad=0.01, h_pad=0.02, wspace=0.0, hspace=0.0, rect=(named, 0, 1 - named, 1)
        )
    else:
        figure.set_layout_engine("compressed")
    grid = figure.subplots(down, across, subplot_kw={"projection": "3d"} if surface else {}, squeeze=False)
    for ax in grid.flat[number:]:
        ax.remove()
    return list(grid.flat[:number])


def _colorbar(places: list[Axes], levels: Levels, kind: str, label: str, colors: str) -> None:
    """One bar for all these panels."""
    figure = places[0].get_figure(root=False)
    assert figure is not None
    norm = levels.shades() if kind == "surface" else levels.bands()
    pad = 0.1 if kind == "surface" and len(places) == 1 else 0.02
    bar = figure.colorbar(
        ScalarMappable(norm, colors), ax=places, label=label, shrink=0.85, pad=pad, aspect=20, extend=levels.extend
    )
    ticks = levels.edges[::3]
    if kind == "surface":
        low, high = levels.edges[[0, -1]]
        ticks = np.geomspace(low, high, 5) if levels.log else np.linspace(low, high, 5)
    bar.set_ticks(ticks.tolist())
    bar.set_ticklabels(level_labels(ticks))
    bar.minorticks_off()


def _explain(places: list[Axes], keys: Mapping[str, Artist], own_figure: bool) -> None:
    """Entries for what the colours do not say: below a figure of our own, else in the last panel."""
    if not keys:
        return
    look: dict[str, Any] = {"handles": list(keys.values()), "handlelength": 1.2, "handletextpad": 0.4, "fontsize": 6}
    figure = places[0].get_figure(root=True)
    if own_figure and figure is not None:
        figure.legend(loc="outside lower center", ncols=len(keys), columnspacing=1.2, **look)
    else:
        places[-1].legend(loc="lower right", frameon=True, framealpha=0.9, borderpad=0.3, **look)
