"""Interactive surfaces with plotly: a scene per model, a menu of classes, one colour scale."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from matplotlib.colors import to_hex

from sharpness.errors import UserError
from sharpness.files import write_atomically
from sharpness.plots.levels import DIVERGING, Levels, level_labels, levels_of
from sharpness.plots.panels import Panel, check_panel
from sharpness.plots.style import SURFACE_COLORS, color_map

#: Number of colours of a scale.
COLORS = 256


def interactive_surfaces(
    subsets: Mapping[str, Mapping[str, Panel]],
    *,
    title: str = "",
    scale: str = "clipped",
    clip: float | None = None,
    xlabel: str = "Direction 1",
    ylabel: str = "Direction 2",
    label: str = "Loss",
    colors: str = SURFACE_COLORS,
) -> Any:
    """Return a plotly Figure of ``{subset: {label: panel}}``; every subset has the same labels.

    Labels are side by side, with common heights and colours. Surfaces are cut off flat at the last level of the
    subset's :func:`shared_levels`. A menu chooses the subset, at first the first one. Hovering shows x, y and the value
    before it was cut off; cells that are not finite are holes. The middle of a diverging colour map is zero.

    Raises:
        UserError: no plotly, nothing finite to draw, a panel without an area, or subsets whose labels differ.
    """
    graph, colors = _plotly(), color_map(colors)
    names = list(subsets)
    models = list(subsets[names[0]])
    # The menu switches surfaces by their position, so that every subset must have the same models.
    for subset, panels in subsets.items():
        if list(panels) != models:
            raise UserError(f"{subset} has {list(panels)}: every subset needs {models}")
        for name, panel in panels.items():
            check_panel(name, panel)
    scales = {s: levels_of([p.z for p in panels.values()], scale, clip) for s, panels in subsets.items()}
    traces, shown = [], []
    for subset, panels in subsets.items():
        for number, panel in enumerate(panels.values()):
            traces.append(_surface(graph, panel, scales[subset], _scene(number), label, subset == names[0]))
            shown.append(subset)
    layout = _layout(models, scales[names[0]], title, xlabel, ylabel, label, colors)
    if len(names) > 1:
        scenes = [key for key in layout if key.startswith("scene")]
        layout["updatemenus"] = [_menu(names, shown, scales, scenes, colors)]
    return graph.Figure(traces, layout)


def save_html(figure: Any, path: str | Path) -> Path:
    """Write a plotly Figure as one HTML file that works offline (atomically)."""
    path = Path(path)
    options: dict[str, Any] = {"include_plotlyjs": True, "full_html": True, "div_id": "landscape"}
    write_atomically(path, lambda partial: figure.write_html(partial, auto_open=False, **options))
    return path


def _plotly() -> ModuleType:
    """Import plotly, which is an optional dependency and takes a second."""
    try:
        import plotly.graph_objects
    except ImportError:
        raise UserError("plotly is not installed: pip install 'sharpness[interactive]'") from None
    return plotly.graph_objects


def _surface(graph: Any, panel: Panel, levels: Levels, scene: str, label: str, visible: bool) -> Any:
    heights = levels.heights(panel.z)
    texts = np.array([[f"{label} {value:.6g}" for value in row] for row in panel.z])  # of a list plotly makes a string
    return graph.Surface(
        x=panel.x.astype(np.float32), y=panel.y.astype(np.float32), z=heights.astype(np.float32), text=texts,
        hoverinfo="x+y+text", coloraxis="coloraxis", scene=scene, visible=visible, connectgaps=False,
    )  # fmt: skip


def _scene(number: int) -> str:
    """The name of a plotly scene, counted from 0."""
    return f"scene{number + 1}" if number else "scene"


def _ends(levels: Levels) -> tuple[float, float]:
    low, high = levels.heights(levels.edges[[0, -1]])
    return float(low), float(high)


def _ticks(levels: Levels) -> dict[str, Any]:
    """Positions on the axis of heights and their labels; surfaces are cut off at the last one."""
    low, high = levels.edges[[0, -1]]
    values = np.geomspace(low, high, 6) if levels.log else np.linspace(low, high, 6)
    texts = level_labels(values, levels.log)
    if levels.extend in ("max", "both"):
        texts[-1] = f"≥ {texts[-1]}"
    if levels.extend in ("min", "both"):
        texts[0] = f"≤ {texts[0]}"
    return {"tickvals": [float(v) for v in levels.heights(values)], "ticktext": texts}


def _layout(
    models: list[str], levels: Levels, title: str, xlabel: str, ylabel: str, label: str, colors: str
) -> dict[str, Any]:
    low, high = _ends(levels)
    width = 1 / len(models)
    layout: dict[str, Any] = {
        "title": {"text": escape(title)},
        "template": "plotly_white",
        "margin": {"l": 0, "r": 0, "b": 0, "t": 80},
        "coloraxis": {
            "colorscale": _color_scale(levels, colors),
            "cmin": low,
            "cmax": high,
            "colorbar": {"title": {"text": label}, "len": 0.7, **_ticks(levels)},
        },
        "annotations": [
            {"text": escape(name), "x": (i + 0.5) * width, "y": 1, "xref": "paper", "yref": "paper", "showarrow": False,
             "xanchor": "center", "yanchor": "bottom", "font": {"size": 14}} for i, name in enumerate(models)
        ],
    }  # fmt: skip
    for i in range(len(models)):
        layout[_scene(i)] = {
            "domain": {"x": [i * width, (i + 1) * width], "y": [0, 1]},
            "xaxis": {"title": {"text": xlabel}},
            "yaxis": {"title": {"text": ylabel}},
            "zaxis": {"title": {"text": label}, "range": [low, high], **_ticks(levels)},
            # Not from the data: lengths along directions and losses have no common unit.
            "aspectmode": "manual",
            "aspectratio": {"x": 1, "y": 1, "z": 0.7},
        }
    return layout


def _color_scale(levels: Levels, colors: str) -> list[tuple[float, str]]:
    """The colours between the ends of the levels, as in other pictures; plotly lacks some maps of matplotlib."""
    steps = np.linspace(0, 1, COLORS)
    shades = levels.colors(colors, bands=False)(steps)
    return [(float(step), to_hex(shade)) for step, shade in zip(steps, shades, strict=True)]


def _menu(
    names: list[str], shown: list[str], scales: Mapping[str, Levels], scenes: list[str], colors: str
) -> dict[str, Any]:
    """A menu with an entry per subset: its surfaces, and the heights and colours of its levels."""
    entries = []
    for name in names:
        low, high = _ends(scales[name])
        ticks = _ticks(scales[name])
        change: dict[str, Any] = {"coloraxis.cmin": low, "coloraxis.cmax": high}
        if colors in DIVERGING:  # zero is elsewhere between the ends
            change["coloraxis.colorscale"] = _color_scale(scales[name], colors)
        change |= {f"coloraxis.colorbar.{key}": value for key, value in ticks.items()}
        for scene in scenes:
            change[f"{scene}.zaxis.range"] = [low, high]
            change |= {f"{scene}.zaxis.{key}": value for key, value in ticks.items()}
        visible = {"visible": [subset == name for subset in shown]}
        entries.append({"label": escape(name), "method": "update", "args": [visible, change]})
    return {"buttons": entries, "x": 0.01, "y": 1.0, "xanchor": "left", "yanchor": "bottom", "pad": {"b": 24}}
