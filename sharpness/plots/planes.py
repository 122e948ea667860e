"""A loss over a plane, for several models and several classes: small multiples on one scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypedDict, Unpack

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from sharpness.errors import UserError, choose
from sharpness.keywords import Default, typed_keywords
from sharpness.plots.contours import draw_contours, draw_filled, draw_heatmap, line_map
from sharpness.plots.frames import frame_plane, lower_first, name_axes, name_row, number_axes, title_panel
from sharpness.plots.layout import Grid, draw_once, fit_height, name_once, new_grid
from sharpness.plots.levels import DIVERGING, Levels, levels_of, signed_levels
from sharpness.plots.marks import draw_marks
from sharpness.plots.panels import Panel, check_panel
from sharpness.plots.scale_bars import scale_bars
from sharpness.plots.small_multiples import explain, given_axes
from sharpness.plots.style import SURFACE_COLORS, color_map, figure_of, style
from sharpness.plots.surfaces import BEHIND, draw_surface

#: Functions ``f(ax, panel, levels, colors)`` that draw, and return the key to what is not on the scale.
DRAW: dict[str, Callable[[Axes, Panel, Levels, str], Sequence[Artist]]] = {
    "filled": draw_filled,
    "contour": draw_contours,
    "heatmap": draw_heatmap,
    "surface": draw_surface,
}
#: A panel, or ``(x (nx,), y (ny,), z (ny, nx))``.
PanelLike = Panel | tuple[np.ndarray, np.ndarray, np.ndarray]


class PlaneOptions(TypedDict, total=False):
    """Options of :func:`plot_plane_grid`.

    Attributes:
        kind: ``"filled"`` contours, ``"contour"`` lines with their values, ``"heatmap"`` (a raster of the cells), or
            ``"surface"``.
        scale: ``"clipped"``, ``"linear"`` or ``"log"``, up to the quantile ``clip``: see :func:`shared_levels`. Values
            beyond the last level have one colour, marked by an arrow at the bar.
        clip: quantile of the values for the last level.
        levels: (n,) levels to use instead, or ``{row: (n,)}``, which must be equal if all rows share them.
        share: ``"row"``: every row has its own levels; ``"all"``: all rows have the same levels.
        points: whether to draw a dot at every evaluated point.
        colorbar: whether to draw a colour bar.
        titles: whether the first row has the names of the models.
        xlabel: label of the first direction.
        ylabel: label of the second direction.
        label: label of the colour bar: the quantity and its unit.
        title: title above the picture.
        log: the same as ``scale="log"``.
        colors: a colour map of matplotlib. The middle of a diverging one is zero, and its default scale runs from the
            lowest to the highest value, evenly in the square root of their size.
    """

    kind: Annotated[str, Default("filled")]
    scale: Annotated[str, Default("clipped")]
    clip: float | None
    levels: np.ndarray | Mapping[str, np.ndarray] | None
    share: Annotated[str, Default("row")]
    points: Annotated[bool, Default(False)]
    colorbar: Annotated[bool, Default(True)]
    titles: Annotated[bool, Default(True)]
    xlabel: Annotated[str, Default("Direction 1")]
    ylabel: Annotated[str, Default("Direction 2")]
    label: Annotated[str, Default("Loss")]
    title: str | None
    log: Annotated[bool, Default(False)]
    colors: Annotated[str, Default(SURFACE_COLORS)]


@typed_keywords()
def plot_planes(
    panels: Mapping[str, PanelLike], axes: Axes | Sequence[Axes] | None = None, **options: Unpack[PlaneOptions]
) -> list[Axes]:
    """Draw ``{label: panel}`` side by side with common levels and colours; a panel may be ``(x, y, z)``.

    A new figure has rows of about equal length, with at most six panels.

    Args:
        panels: panels of the models.
        axes: one for each panel; by default new ones.
        options: see :class:`PlaneOptions`.
    """
    return plot_plane_grid({"": panels}, axes, **options)


@typed_keywords()
def plot_plane_grid(
    rows: Mapping[str, Mapping[str, PanelLike]],
    axes: Axes | Sequence[Axes] | None = None,
    **options: Unpack[PlaneOptions],
) -> list[Axes]:
    """Draw ``{row: {label: panel}}``: rows of classes, columns of models, and return the Axes row by row.

    Args:
        rows: rows of panels.
        axes: one for each panel, row by row; by default new ones.
        options: see :class:`PlaneOptions`.

    Raises:
        UserError: an unknown kind or scale, a wrong number of Axes, a panel without an area, nothing finite to draw.
    """
    kind, scale, clip, levels = options["kind"], options["scale"], options["clip"], options["levels"]
    share, label, title = options["share"], options["label"], options["title"]
    choose("kind of picture", kind, list(DRAW))
    choose("share", share, ["row", "all"])
    colors = color_map(options["colors"])
    if options["log"] and scale not in ("clipped", "log"):
        raise UserError(f"scale={scale!r} and log=True: give one of them")
    scale = "log" if options["log"] else scale
    table = {row: {name: Panel(*panel) for name, panel in panels.items()} for row, panels in rows.items()}
    for row, panels in table.items():
        for name, panel in panels.items():
            check_panel(f"{name} {row}".strip(), panel)
    # The middle of diverging colours is zero, which levels that start at the lowest value would miss.
    if colors in DIVERGING and scale == "clipped" and levels is None:
        surfaces = {row: [panel.z for panel in panels.values()] for row, panels in table.items()}
        if share == "all":
            surfaces = dict.fromkeys(table, [z for zs in surfaces.values() for z in zs])
        levels = {row: signed_levels(zs, clip=1.0 if clip is None else clip) for row, zs in surfaces.items()}
    scales = _scales(table, share, scale, clip, levels)
    # On a new figure, axes are labelled once for all panels; around given Axes there may be no room for that.
    own = axes is None
    once = own and (kind == "surface" or sum(map(len, table.values())) > 1)
    with style():
        number = sum(map(len, table.values()))
        places, columns = new_grid(table, kind) if axes is None else Grid(given_axes(axes, number), number)
        keys: dict[str, Artist] = {}
        bands = np.split(np.array(places, dtype=object), np.cumsum([len(p) for p in table.values()])[:-1])
        if kind == "contour":
            keys["lines"] = _line_key(label, colors)
        elif options["colorbar"]:  # before the frames, which need to know how much room it leaves
            groups = [(list(band), scales[row]) for band, row in zip(bands, table, strict=True)]
            if share == "all":
                groups = [(places, groups[0][1])]
            laid_out = figure_of(places, outermost=True).get_layout_engine() is not None
            scale_bars(groups, kind != "surface", label, colors, laid_out)
        for number, (band, (row, panels)) in enumerate(zip(map(list, bands), table.items(), strict=True)):
            for ax, (name, panel) in zip(band, panels.items(), strict=True):
                keys |= {
                    str(key.get_label()): key for key in _draw(ax, panel, scales[row], kind, colors, options["points"])
                }
                if options["titles"] and (number == 0 or len(band) > columns):
                    title_panel(ax, name, 1.02 if kind == "surface" else None)
            across = columns if len(table) == 1 else min(columns, len(band))
            number_axes(band, across, bottom=number == len(table) - 1)
            if not once:
                name_axes(band, across, options["xlabel"], options["ylabel"], bottom=number == len(table) - 1)
            if row:
                name_row(band[0], row)
        if once:
            name_once(places, options["xlabel"], options["ylabel"], kind)
        if not own:
            keys.pop(BEHIND, None)  # there is no room for it within a surface's box
        if title is not None and len(places) == 1:
            places[0].set_title(title, fontsize=8)
        elif title is not None and not own:
            raise UserError(f"title={title!r}: the panels have titles of their own; give it to their figure")
        if own:
            above = None if len(places) == 1 else title
            explain(figure_of(places, outermost=True), list(keys.values()), above, fontsize=6)
        elif keys:
            look: dict[str, Any] = {"frameon": True, "framealpha": 0.9, "borderpad": 0.3, "fontsize": 6}
            places[-1].legend(handles=list(keys.values()), loc="lower right", handlelength=1.2, **look)
        # Last, because texts around the panels determine how much height is left over.
        if own:
            (draw_once if kind == "surface" else fit_height)(places)
    return places


def _draw(ax: Axes, panel: Panel, levels: Levels, kind: str, colors: str, points: bool) -> Sequence[Artist]:
    """Draw a panel and its frame, and return the key to what is not on the colour scale."""
    if kind == "surface":
        return draw_surface(ax, panel, levels, colors)
    drawn = DRAW[kind](ax, panel, levels, colors)
    frame_plane(ax, panel, whole=kind == "heatmap")
    return [*drawn, *draw_marks(ax, panel, points)]


def _scales(
    table: Mapping[str, Mapping[str, Panel]],
    share: str,
    scale: str,
    clip: float | None,
    levels: np.ndarray | Mapping[str, np.ndarray] | None,
) -> dict[str, Levels]:
    """The levels of every row."""
    values = {row: [panel.z for panel in panels.values()] for row, panels in table.items()}
    given = levels if isinstance(levels, Mapping) else dict.fromkeys(values, levels)
    if share == "all":
        (first, edges), *others = given.items()
        for row, other in others:
            if not np.array_equal(edges, other):  # type: ignore[arg-type]
                raise UserError(
                    f"share='all': levels of {first!r} and {row!r} differ: give both the same, or share='row'"
                )
        # Over all values, because those beyond the ends have colours of their own.
        return dict.fromkeys(values, levels_of([z for zs in values.values() for z in zs], scale, clip, edges))
    return {row: levels_of(zs, scale, clip, given[row]) for row, zs in values.items()}


def _line_key(label: str, colors: str) -> Line2D:
    """The legend entry of the numbers on contour lines."""
    shade = line_map(colors)(0.1 if colors in DIVERGING else 0.4)
    return Line2D([], [], color=shade, linewidth=1, label=f"lines: {lower_first(label)}")
