"""Heat maps with one value per layer and class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypedDict, Unpack

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from sharpness.errors import UserError
from sharpness.keywords import Default, typed_keywords
from sharpness.plots.colors import Scale, color_bar, color_scale, shared_limits
from sharpness.plots.labels import class_label, label_classes, short_names, size_of
from sharpness.plots.small_multiples import across, explain
from sharpness.plots.style import PAGE, figure_width, new_axes, shown_figure, style

LAYERS = "Layer, input to output"
#: Styles of cells at or below zero on a logarithmic scale, and of cells without a value.
NOT_POSITIVE: dict[str, Any] = {"facecolor": "#F0C4DC"}
NO_VALUE: dict[str, Any] = {"facecolor": "0.8", "edgecolor": "0.45", "hatch": "//////", "linewidth": 0}


class HeatmapOptions(TypedDict, total=False):
    """Options of :func:`plot_layer_class`, alone or as one of several panels.

    Attributes:
        title: title above the picture.
        label: label of the colour bar: the quantity and its unit.
        log: whether colours are logarithmic.
        limits: (low, high) of the colours, by default those of :func:`shared_limits`.
        counts: (classes,) training images, written below the names.
        ylabel: label of the rows, if they are not layers.
        annotated: whether cells that are large enough show their value in hundredths.
    """

    title: str | None
    label: Annotated[str, Default("")]
    log: Annotated[bool, Default(True)]
    limits: tuple[float, float] | None
    counts: np.ndarray | None
    ylabel: Annotated[str, Default(LAYERS)]
    annotated: Annotated[bool, Default(False)]


@typed_keywords()
def plot_layer_class(
    values: np.ndarray,
    layer_names: Sequence[str],
    class_names: Sequence[str],
    ax: Axes | None = None,
    *,
    colorbar: bool = True,
    **options: Unpack[HeatmapOptions],
) -> Axes:
    """Draw ``values`` (layers, classes) as colours, the first layer on top, classes in the order given.

    Cells that are not finite are hatched grey. On a logarithmic scale, cells at or below zero are pale pink. A key
    above the picture explains both.

    Args:
        values: rows are layers in network order; NaN for a cell without a value.
        layer_names: (layers,) such as names of parameters, whose common words are left out.
        class_names: (classes,).
        colorbar: whether to draw a colour bar.
        options: see :class:`HeatmapOptions`.

    Raises:
        UserError: a shape of the values that does not match the names, or a scale that cannot show them.
    """
    scale = _scale({"": values}, options)
    with style():
        ax = new_axes(ax, height=0.9 + 0.1 * max(10, len(layer_names)))
        keys = _draw(ax, values, layer_names, class_names, scale, options)
        ax.set_ylabel(options["ylabel"])
        ax.set_title(options["title"] or "", pad=18 if keys else None)
        if keys:
            ax.legend(handles=keys, ncols=2, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.3)
        if colorbar:
            color_bar([ax], [values], scale, options["label"])
    return ax


def _scale(panels: Mapping[str, np.ndarray], options: HeatmapOptions) -> Scale:
    """The colour scale of all panels: between given limits, or those of the values."""
    limits = options["limits"]
    return color_scale(shared_limits(panels, options["log"]) if limits is None else limits, options["log"])


@typed_keywords()
def plot_layer_class_grid(
    panels: Mapping[str, np.ndarray],
    layer_names: Sequence[str],
    class_names: Sequence[str],
    *,
    columns: int = 5,
    rows: Mapping[str, Sequence[str]] | None = None,
    **options: Unpack[HeatmapOptions],
) -> Figure:
    """Draw a panel of :func:`plot_layer_class` for each ``{label: (layers, classes)}``, with one colour bar for all.

    Args:
        panels: values of the same classes.
        layer_names: (layers,) of all panels.
        class_names: (classes,).
        columns: maximum number of panels in a row.
        rows: names of the rows of each panel, if they differ.
        options: see :class:`HeatmapOptions`.
    """
    # Before anything is drawn, because all panels share one colour bar.
    scale, ylabel = _scale(panels, options), options["ylabel"]
    columns = across(len(panels), figure_width(PAGE) - 0.9, columns)
    lines = -(-len(panels) // columns)
    wide = 2.4 if options["annotated"] else 1.2  # numbers need room
    with style():
        figure = shown_figure(min(PAGE, 1.6 + wide * columns), lines * (1 + 0.09 * max(10, len(layer_names))))
        axes = figure.subplots(lines, columns, squeeze=False)
        keys: dict[str, Patch] = {}
        for i, (ax, (name, values)) in enumerate(zip(axes.flat, panels.items(), strict=False)):
            drawn = _draw(ax, values, layer_names if rows is None else rows[name], class_names, scale, options)
            keys |= {str(key.get_label()): key for key in drawn}
            ax.set(title=name, xlabel="")
            if i % columns and rows is None:
                ax.tick_params(labelleft=False)
        for ax in axes.flat[len(panels) :]:
            ax.set_axis_off()
        color_bar(list(axes.flat), list(panels.values()), scale, options["label"])
        figure.supxlabel(class_label(options["counts"]), fontsize=8)
        figure.supylabel(ylabel, fontsize=8)
        explain(figure, list(keys.values()), options["title"])
    return figure


def _draw(
    ax: Axes,
    values: np.ndarray,
    layer_names: Sequence[str],
    class_names: Sequence[str],
    scale: Scale,
    options: HeatmapOptions,
) -> list[Patch]:
    """Draw cells and names, and return the key to what is not on the scale of colours."""
    values = np.asarray(values, dtype=float)
    if options["ylabel"] == LAYERS:
        layer_names = short_names(layer_names)
    if values.shape != (len(layer_names), len(class_names)):
        raise UserError(f"values of shape {values.shape} for {len(layer_names)} layers and {len(class_names)} classes")
    norm, colors = scale
    missing = ~np.isfinite(values)
    below = ~missing & (values <= 0) & isinstance(norm, LogNorm)
    place: dict[str, Any] = {"aspect": "auto", "interpolation": "nearest"}
    ax.imshow(np.ma.masked_where(missing | below, values), norm=norm, cmap=colors, **place)
    keys = []
    if below.any():
        pink = ListedColormap([NOT_POSITIVE["facecolor"]])
        ax.imshow(np.ma.masked_where(~below, values), cmap=pink, **place)
        keys.append(Patch(label=r"$\leq 0$", **NOT_POSITIVE))
    if missing.any():
        ax.patch.set(**NO_VALUE)  # seen through the cells that are masked
        keys.append(Patch(label="no value", **NO_VALUE))
    for spine in ax.spines.values():
        spine.set_visible(True)
    # A colour bar and the names of the layers need room.
    label_classes(ax, class_names, options["counts"], fontsize=6, widening=0.95)
    pitch = size_of(ax)[1] / len(layer_names)
    shown = range(0, len(layer_names), int(np.ceil(5.5 / pitch)))
    ax.set_yticks(shown, [layer_names[i] for i in shown], fontsize=min(6.0, max(4.5, 0.85 * pitch)))
    ax.tick_params(length=2, pad=1.5)
    # Numbers that would overlap are left out.
    if options["annotated"] and size_of(ax)[0] / len(class_names) >= 9 and pitch >= 5.5:
        for row, column in np.argwhere(~missing):
            shade = colormaps[colors](norm(values[row, column]))
            dark = np.dot(shade[:3], (0.3, 0.59, 0.11)) < 0.5
            text = f"{100 * values[row, column]:.0f}"
            ax.text(column, row, text, ha="center", va="center", fontsize=5.5, color="white" if dark else "black")
    return keys
