"""The style of all pictures: a palette for colour-blind readers, sizes, and saving."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

#: Widths in inches of one and of two columns of a paper.
COLUMN, PAGE = 3.35, 6.9
#: Okabe and Ito's colours in an order that keeps neighbours apart, also in grey.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
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
    """Those of seaborn's ``ticks``, with ours. Seaborn takes a second to load, so whoever draws nothing never does."""
    import seaborn

    return {**seaborn.axes_style("ticks"), **RC}


def color(index: int) -> str:
    """The colour of the ``index``-th model of a comparison."""
    return COLORS[index % len(COLORS)]


def marker(index: int) -> str:
    """The marker of the ``index``-th model of a comparison."""
    return MARKERS[index % len(MARKERS)]


@contextmanager
def style() -> Iterator[None]:
    """The project's settings, inside a ``with`` only: global rcParams stay as they were."""
    if in_notebook():
        import matplotlib.pyplot as plt

        plt.draw_if_interactive()  # loads the backend, whose own settings would be undone at the end of the block
    with mpl.rc_context(settings()):
        yield


def new_figure(width: float = COLUMN, height: float = 2.4) -> Figure:
    """An empty figure that pyplot does not know of, so that it never shows or leaks."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def in_notebook() -> bool:
    """True if figures are shown below the notebook cell that makes them."""
    return "inline" in (mpl.get_backend(auto_select=False) or "")


def shown_figure(width: float = COLUMN, height: float = 2.4) -> Figure:
    """A figure that a notebook displays by itself; elsewhere one that pyplot does not know of."""
    if in_notebook():
        import matplotlib.pyplot as plt

        return plt.figure(figsize=(width, height), layout="constrained")
    return new_figure(width, height)


def new_axes(ax: Axes | None, width: float = COLUMN, height: float = 2.4, **options: Any) -> Axes:
    """``ax``, or the single Axes of a new figure."""
    return shown_figure(width, height).add_subplot(**options) if ax is None else ax


def stacked_axes(number: int, width: float = PAGE, height: float = 1.35) -> list[Axes]:
    """Axes of a new figure, one above the other, with one x axis; ``height`` is that of each."""
    with style():
        figure = shown_figure(width, 0.7 + number * height)
        return list(figure.subplots(number, 1, sharex=True, squeeze=False)[:, 0])


def save_figure(figure: Figure, path: Path) -> list[Path]:
    """PDF and PNG beside each other, without dates, so that equal pictures are equal files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = [path.with_suffix(".pdf"), path.with_suffix(".png")]
    with style():
        figure.savefig(written[0], metadata={"CreationDate": None, "ModDate": None})
        figure.savefig(written[1], metadata={"Software": None})
    return written
