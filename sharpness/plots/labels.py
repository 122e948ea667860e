"""Labels around a picture: classes with their training images, short names of layers, legends above."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cbook import is_math_text
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path

from sharpness.plots.options import options_in_force

#: With more classes than this, a picture shows one curve per model, and only some classes are named.
MANY = 30
#: Height of a line of text, in multiples of the font size.
LINE = 1.2
#: Style of an open marker, for a value with a caveat.
OPEN: dict[str, Any] = {"markerfacecolor": "white", "markeredgewidth": 0.8, "zorder": 5}
#: Style of the legend entry for a value that could be zero.
DOTTED: dict[str, Any] = {"markerfacecolor": "white", "markeredgewidth": 1.3}


def size_of(ax: Axes) -> tuple[float, float]:
    """Width and height of the Axes in points, before a layout makes room for labels."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return ax.bbox.width / figure.dpi * 72, ax.bbox.height / figure.dpi * 72


def class_room(ax: Axes, classes: int, widening: float = 1.15) -> float:
    """Width in points of one of several classes side by side, if a layout widens the Axes by ``widening``."""
    figure = ax.get_figure(root=True)
    laid_out = figure is not None and figure.get_layout_engine() is not None
    return (widening if laid_out else 1) * size_of(ax)[0] / max(classes, 1)


def width_of(texts: Sequence[str], fontsize: float) -> float:
    """Width of the widest line in points."""
    font = FontProperties(size=fontsize)
    lines = {line for text in texts for line in text.split("\n")}
    measured = text_to_path.get_text_width_height_descent
    return max((measured(t, font, bool(is_math_text(t)))[0] for t in lines), default=0.0)


def drawable(name: str) -> str:
    r"""The name of a model or class as Matplotlib can draw it: dollars are escaped unless they enclose a formula.

    >>> drawable("$x_1$"), drawable("US$ 5"), drawable("$x_")
    ('$x_1$', 'US\\$ 5', '\\$x_')
    """
    if "$" not in name:
        return name
    try:
        if is_math_text(name) and width_of([name], 8):
            return name
    except ValueError:
        pass
    return re.sub(r"(?<!\\)\$", r"\\$", name)


def offsets(models: int, classes: int) -> np.ndarray:
    """Positions (models, classes) on the x axis: models side by side, or at one position with more than 30 classes."""
    spread = np.zeros(models) if classes > MANY else (np.arange(models) - (models - 1) / 2) * 0.7 / max(models, 1)
    return np.arange(classes) + spread[:, None]


def marker_size(ax: Axes, models: int, classes: int) -> float:
    """Marker size in points, smaller where the models of a class would overlap."""
    return float(np.clip(0.7 * class_room(ax, classes * models), 2, 4))


def label_classes(
    ax: Axes,
    names: Sequence[str],
    counts: np.ndarray | None = None,
    xlabel: str | None = None,
    fontsize: float = 7,
    widening: float = 1.15,
    numbered: bool = True,
) -> None:
    """Name the classes at 0, 1, ... on the x axis of ``ax``, with their training images ``counts`` (C,) if given.

    Names are upright if they would overlap. With more than 30 classes, some are numbered instead, from 1 in the order
    given, including the first and the last. ``xlabel`` replaces the label of the axis; ``widening`` is the factor by
    which a layout is expected to widen the Axes. If not ``numbered``, only the label is drawn.
    """
    ax.set_xlabel(class_label(counts) if xlabel is None else xlabel)
    if not numbered:
        return
    names = [options_in_force().name_of(name) for name in names]
    room = class_room(ax, len(names), widening)
    places, texts = list(range(len(names))), list(names)
    if len(names) > MANY:
        widest = width_of(["0000"], fontsize) + 2 * fontsize
        step = next(s for s in (5, 10, 20, 25, 50, 100, 200, 500, len(names)) if s * room >= widest or s >= len(names))
        places = [0, *range(step - 1, len(names) - step // 2 - 1, step), len(names) - 1]
        texts = [str(place + 1) for place in places]
        room *= step
    if counts is not None:
        texts = [f"{text}\n{counts[place]}" for place, text in zip(places, texts, strict=True)]
    widths = np.array([width_of([text], fontsize) for text in texts])
    if np.max(widths[:-1] + widths[1:], initial=0) / 2 + 0.5 * fontsize <= room:
        ax.set_xticks(places, texts, fontsize=fontsize)
    else:
        lines = max((text.count("\n") + 1 for text in texts), default=1)
        # The lines of an upright text are side by side, and need that much room.
        if lines * LINE * fontsize > room:
            texts = [text.replace("\n", ", ") for text in texts]
        ax.set_xticks(places, texts, rotation=90, fontsize=fontsize, linespacing=1, multialignment="right")
    ax.set_xlim(-0.5, len(names) - 0.5)


def class_label(counts: np.ndarray | None) -> str:
    """The label of the axis of classes."""
    if counts is not None:
        return "Class and its training images"
    return "Class" if options_in_force().order else "Class, most to fewest images"


def short_names(names: Sequence[str]) -> list[str]:
    """Names of parameters without words with which at least half of them end or start, as long as they stay distinct.

    A word followed by a number stays, because numbers alone say nothing.

    >>> short_names(["backbone.conv1.weight", "backbone.layer1.0.conv1.weight", "head.weight", "head.bias"])
    ['conv1', 'layer1.0.conv1', 'head', 'head.bias']
    """
    parts = [name.split(".") for name in names]
    for last in (True, False):
        while parts:
            ends = [p[-1] if last else p[0] for p in parts]
            word, times = Counter(ends).most_common(1)[0]
            shorter = [(p[:-1] if last else p[1:]) if end == word else p for p, end in zip(parts, ends, strict=True)]
            numbered = any(s[0].isdigit() for s in shorter if s)
            distinct = all(shorter) and len(set(map(tuple, shorter))) == len(shorter)
            if 2 * times < len(parts) or word[-1:].isdigit() or numbered or not distinct:
                break
            parts = shorter
    return [".".join(p) for p in parts]


def grey(text: str, **look: Any) -> Line2D:
    """A legend entry that explains a mark of all models."""
    return Line2D([], [], color="0.4", label=text, **look)


def not_converged() -> Line2D:
    """The legend entry for open markers."""
    return grey("open: not converged", linestyle="", marker="o", **OPEN)


def doubtful_key() -> Line2D:
    """The legend entry for the white dots of :func:`draw_doubtful`."""
    return grey("white dot: within 2 errors of zero", linestyle="", marker="o", markersize=4, **DOTTED)


def bars_key(over: str, what: str = "bars") -> Line2D:
    """The legend entry for bars, or bands, of intervals."""
    return grey(f"{what}: 95 %{f' over {over}' if over else ''}", linewidth=0.8 if what == "bars" else 3, alpha=0.6)


def to_zero_key() -> Line2D:
    """The legend entry for arrows at the lower end of a logarithmic axis."""
    return grey("arrow: to zero or below", linestyle="", marker="v", markersize=3, markeredgewidth=0)


def draw_doubtful(ax: Axes, at: np.ndarray, values: np.ndarray, doubtful: Any, size: float) -> bool:
    """Draw a white dot in the markers of values (C,) within two errors of zero; return True if there is any."""
    chosen = np.asarray(doubtful, dtype=bool) & np.isfinite(values)
    if chosen.any():
        look: dict[str, Any] = {"color": "white", "markeredgewidth": 0, "markersize": 0.45 * size, "zorder": 6}
        ax.plot(at[chosen], values[chosen], "o", gid="near zero", **look)
    return bool(chosen.any())


def legend_columns(labels: Sequence[str], room: float, fontsize: float = 7) -> int:
    """The number of columns of a legend at most ``room`` points wide: as few rows as fit, of about equal length."""
    widths = np.array([width_of([label], fontsize) + 4 * fontsize for label in labels])  # 4 for handle and gaps
    columns = len(labels)
    while columns > 1 and sum(part.max() for part in np.array_split(widths, columns)) > room:
        columns -= 1
    rows = -(-len(labels) // max(columns, 1))
    return -(-len(labels) // max(rows, 1))


def set_texts(ax: Axes, texts: Mapping[str, Any], extra: Sequence[Line2D] = ()) -> None:
    """Set labels of the axes, title and legend from :class:`~sharpness.plots.options.TextOptions`."""
    ax.set(xlabel=texts["xlabel"], ylabel=texts["ylabel"], title=texts["title"] or "")
    if texts["legend"]:
        legend_above(ax, texts["title"], extra)


def legend_above(ax: Axes, title: str | None = None, extra: Sequence[Line2D] = ()) -> None:
    """Draw a legend above the Axes, in as few rows as fit, and ``title`` above it; ``extra`` entries come last."""
    handles, labels = ax.get_legend_handles_labels()
    handles, labels = [*handles, *extra], [*labels, *(str(line.get_label()) for line in extra)]
    room = 1.05 * size_of(ax)[0]  # a layout widens the Axes
    columns = legend_columns(labels, room)
    rows = -(-len(labels) // max(columns, 1))
    if labels:
        ax.legend(
            handles, labels, ncols=columns, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2,
            handlelength=2.2, handletextpad=0.4, columnspacing=1.2, fontsize=7,
        )  # fmt: skip
    ax.set_title(title or "", pad=6 + 11.9 * rows)
