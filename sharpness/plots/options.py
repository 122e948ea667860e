"""Options of every picture: models and their order, names and colours, size, title, scale, Axes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from numbers import Real
from typing import Annotated, Any, TypedDict

from sharpness.errors import UserError, choose
from sharpness.keywords import Default

#: Widths in inches of one and of two columns of a paper.
WIDTHS = {"single": 3.3, "double": 6.9}
#: Minimum and maximum side of a figure in inches.
LEAST, MOST = 1.0, 40.0


class TextOptions(TypedDict, total=False):
    """Texts of a picture.

    Attributes:
        title: title above the picture.
        xlabel: label of the horizontal axis.
        ylabel: label of the vertical axis.
        legend: whether to draw a legend.
    """

    title: str | None
    xlabel: str | None
    ylabel: Annotated[str, Default("")]
    legend: Annotated[bool, Default(True)]


class AxisOptions(TextOptions, total=False):
    """Texts and scale of a picture.

    Attributes:
        log: a logarithmic axis, which is linear around zero if there are values of both signs.
    """

    log: Annotated[bool, Default(False)]


@dataclass(frozen=True)
class PlotOptions:
    """The look of a picture, independent of its content.

    Args:
        order: labels of the models to draw, in this order; others are left out. If classes are side by side, names of
            classes as well.
        labels: names to show instead, ``{label: name}``, for models and for classes that are side by side.
        palette: colours of models or subsets: a list, ``{label: colour}``, or the name of one of seaborn's palettes;
            for surfaces and heat maps, the name of a colour map.
        figsize: width and height of the figure in inches.
        width: width of the figure: ``"single"`` (3.3 in) or ``"double"`` (6.9 in) for one or two columns of a paper, or
            inches. The height follows from what is drawn.
        title: title above the picture.
        log: a logarithmic scale of the values, which is linear around zero if there are values of both signs.
        ax: the Axes to draw on, one for each panel; by default a new figure.

    Raises:
        UserError: an invalid value, both sizes, or a size with ``ax``, whose figure already has one.

    >>> PlotOptions(width="single").inches, PlotOptions(figsize=(5, 3)).inches, PlotOptions().inches
    (3.3, 5, None)
    """

    order: Sequence[str] | None = None
    labels: Mapping[str, str] | None = None
    palette: str | Sequence[Any] | Mapping[str, Any] | None = None
    figsize: tuple[float, float] | None = None
    width: str | float | None = None
    title: str | None = None
    log: bool | None = None
    ax: Any = None

    def __post_init__(self) -> None:
        if self.order is not None and (isinstance(self.order, str) or len(set(self.order)) < len(self.order)):
            raise UserError(f"order={self.order!r}: give a list of names, each once")
        if self.order is not None and not len(self.order):
            raise UserError("order=[]: name at least one model or class")
        if not isinstance(self.labels, Mapping | None):
            raise UserError(f"labels={self.labels!r}: give a mapping {{label: name to show}}")
        if isinstance(self.width, str) and self.width not in WIDTHS:
            raise UserError(f"width={self.width!r}: give {', '.join(map(repr, WIDTHS))} or inches")
        sizes = {"width": [] if self.width is None else [self.inches]}
        if self.figsize is not None:
            sizes["figsize"] = list(self.figsize) if isinstance(self.figsize, tuple | list) else [self.figsize]
            if len(sizes["figsize"]) != 2:
                raise UserError(f"figsize={self.figsize!r}: give width and height in inches, such as (6.9, 3)")
        for name, inches in sizes.items():
            if not all(isinstance(side, Real) and LEAST <= float(side) <= MOST for side in inches):
                raise UserError(f"{name}={getattr(self, name)!r}: give inches from {LEAST:g} to {MOST:g}")
        if self.width is not None and self.figsize is not None:
            raise UserError(f"width={self.width!r} and figsize={self.figsize!r}: give one of them")
        for name in ("width", "figsize"):
            if self.ax is not None and getattr(self, name) is not None:
                raise UserError(f"{name}={getattr(self, name)!r}: the figure of ax has its size, leave one of them out")
        if not isinstance(self.log, bool | None):
            raise UserError(f"log={self.log!r}: give True or False")

    @property
    def inches(self) -> Any:
        """The requested width, if any."""
        if self.figsize is not None:
            return self.figsize[0]
        return WIDTHS[self.width] if isinstance(self.width, str) else self.width

    def name_of(self, label: str) -> str:
        """The name to show for a model or class."""
        return str((self.labels or {}).get(label, label))

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Apply these options to pictures drawn inside the ``with`` block."""
        token = _in_force.set(self)
        try:
            yield
        finally:
            _in_force.reset(token)


def looks_of(options: Mapping[str, Any], names: Sequence[str], what: str) -> tuple[PlotOptions, dict[str, str]]:
    """Return the options of a picture of named items, and the names to show for the drawn items, in their order.

    Args:
        options: see :class:`PlotOptions`.
        names: names of all items.
        what: the kind of the items, such as ``"model"``.

    Raises:
        UserError: a value out of range, or an unknown name.
    """
    looks = PlotOptions(**options)
    for name in (*(looks.order or ()), *(looks.labels or ())):
        choose(what, name, names)
    return looks, {name: looks.name_of(name) for name in looks.order or names}


#: Names of the options of every picture.
COMMON = tuple(field.name for field in fields(PlotOptions))
# A context variable, like rcParams: only the innermost plotting functions need size and colours.
_in_force: ContextVar[PlotOptions] = ContextVar("plot options", default=PlotOptions())  # noqa: B039


def options_in_force() -> PlotOptions:
    """The options of the picture that is being drawn."""
    return _in_force.get()
