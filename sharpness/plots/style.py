"""The style of all pictures: a colour-blind-safe palette, sizes, and saving."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, FigureBase

from sharpness.errors import UserError
from sharpness.files import picture_file, write_atomically
from sharpness.plots.options import WIDTHS, options_in_force

#: Widths in inches of one and of two columns of a paper.
COLUMN, PAGE = WIDTHS["single"], WIDTHS["double"]
#: Okabe and Ito's colours, in an order that keeps neighbours distinguishable, also in grey.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
#: Line styles of curves without markers, so that colour is never the only difference.
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.2)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (7, 2)), (0, (3, 1, 1, 1, 1, 1)))
#: Perceptually uniform, also for colour-blind readers and in grey.
SURFACE_COLORS = "viridis"

RC = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "savefig.dpi": 200,
    "figure.dpi": 150,
}


@cache
def settings() -> dict[Any, Any]:
    """The rcParams: seaborn's ``ticks`` and ours. Seaborn is loaded on first use, because it takes a second."""
    import seaborn

    return {**seaborn.axes_style("ticks"), **RC}


def colors_of(labels: Sequence[str], usual: Sequence[str] = COLORS) -> list[Any]:
    """A colour for each label: from the requested palette, otherwise the ``usual`` ones.

    Raises:
        UserError: a palette that seaborn does not know, or one that names an unknown label.
    """
    palette = options_in_force().palette
    if isinstance(palette, Mapping):
        for name in palette.keys() - set(labels):
            raise UserError(f"palette: nothing is called {name!r} here: choose from {', '.join(labels)}")
        return [palette.get(label, usual[i % len(usual)]) for i, label in enumerate(labels)]
    if palette is not None:
        import seaborn

        try:
            usual = seaborn.color_palette(palette if isinstance(palette, str) else list(palette), len(labels))
        except (ValueError, TypeError) as error:
            raise UserError(f"palette={palette!r}: {error}") from None
    return [usual[i % len(usual)] for i in range(len(labels))]


def color_map(usual: str) -> str:
    """The name of the requested colour map, otherwise the ``usual`` one.

    Raises:
        UserError: a palette that is not a colour map.
    """
    palette = options_in_force().palette
    if palette is None:
        return usual
    if not isinstance(palette, str) or palette not in mpl.colormaps:
        raise UserError(f"palette={palette!r}: this picture needs the name of a colour map, such as 'cividis'")
    return palette


def dash(index: int) -> Any:
    """The line style of the ``index``-th curve."""
    return DASHES[index % len(DASHES)]


def marker(index: int) -> str:
    """The marker of the ``index``-th model of a comparison."""
    return MARKERS[index % len(MARKERS)]


@contextmanager
def style() -> Iterator[None]:
    """Apply the project's settings inside a ``with`` block; global rcParams are restored."""
    if in_notebook():
        import matplotlib.pyplot as plt

        plt.draw_if_interactive()  # loads the backend, whose own settings would be undone at the end of the block
    with mpl.rc_context(settings()):
        yield


def new_figure(width: float = COLUMN, height: float = 2.4) -> Figure:
    """Create an empty figure that pyplot does not manage, so that it is never shown and never leaks."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def in_notebook() -> bool:
    """True if figures are shown below the notebook cell that creates them."""
    return "inline" in (mpl.get_backend(auto_select=False) or "")


def shown_figure(width: float = COLUMN, height: float = 2.4) -> Figure:
    """Create a figure that a notebook displays automatically; elsewhere one that pyplot does not manage.

    Its size is that of the options in force, otherwise the given one.
    """
    options = options_in_force()
    width, height = options.figsize or (figure_width(width), height)
    if in_notebook():
        import matplotlib.pyplot as plt

        return plt.figure(figsize=(width, height), layout="constrained")
    return new_figure(width, height)


def figure_width(usual: float) -> float:
    """The width of a new figure: that of the options in force, otherwise the usual one."""
    return float(options_in_force().inches or usual)


def new_axes(ax: Axes | None, width: float = COLUMN, height: float = 2.4, **options: Any) -> Axes:
    """``ax``, or the single Axes of a new figure."""
    return shown_figure(width, height).add_subplot(**options) if ax is None else ax


def figure_of(drawn: Any, outermost: bool = False) -> Any:
    """The figure, or subfigure, of one or several Axes; a figure is returned unchanged.

    Args:
        drawn: Axes, several of them in an array or list, or a figure.
        outermost: whether to return the figure around a subfigure, which has the size and the layout.
    """
    first = np.ravel(np.asarray(drawn, dtype=object))[0]
    return first if isinstance(first, FigureBase) else first.get_figure(root=outermost)


def stacked_axes(number: int) -> list[Axes]:
    """Create Axes on a new figure, one above the other, with a common x axis."""
    with style():
        figure = shown_figure(PAGE, 0.7 + 1.35 * number)
        return list(figure.subplots(number, 1, sharex=True, squeeze=False)[:, 0])


def save_figure(figure: Figure, path: Path) -> list[Path]:
    """Write a PDF and a PNG (atomically), without dates, so that equal pictures give equal files.

    Both have the layout of the PNG, because computing it again takes longer than drawing.

    Raises:
        UserError: a name with the suffix of another format.
    """
    written: list[Path] = []
    engine = figure.get_layout_engine()
    with style():
        try:
            for suffix, metadata in ((".png", {"Software": None}), (".pdf", {"CreationDate": None, "ModDate": None})):
                target = picture_file(path, suffix)
                kind: dict[str, Any] = {"format": suffix[1:], "metadata": metadata}
                write_atomically(target, lambda partial, kind=kind: figure.savefig(partial, **kind))  # type: ignore[misc]
                written.insert(0, target)
                figure.set_layout_engine("none")
        finally:
            figure.set_layout_engine(engine)
    return written
