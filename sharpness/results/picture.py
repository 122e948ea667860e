"""Pictures of results: one set of options, checked before anything is drawn, and shown by ``help``.

Nothing here loads matplotlib before a result's ``plot`` is looked up: most results are tabulated and never drawn.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sharpness.errors import UserError
from sharpness.keywords import entries_of
from sharpness.renamed import renamed_arguments

if TYPE_CHECKING:
    from sharpness.plots import PlotOptions
    from sharpness.results.runs import Entry

#: Options that results, not users, pass to plotting functions.
INNER = (
    "trainings", "marks", "intervals", "over", "doubtful", "flags", "counts", "keys", "bounds", "names", "colors",
    "base", "rows",
)  # fmt: skip
_KEYWORD = inspect.Parameter.KEYWORD_ONLY


class Later:
    """A method that is created on first access.

    Args:
        make: returns the function.
        of_class: whether its first argument is the class, even if it is called on an instance.
    """

    def __init__(self, make: Callable[[], Callable[..., Any]], of_class: bool = False) -> None:
        self.make, self.of_class = functools.cache(make), of_class

    def __get__(self, instance: Any, owner: type) -> Any:
        return self.make().__get__(owner if self.of_class else instance, owner)


def picture(*draws: str, classes: bool = False, without: Mapping[str, str] | None = None) -> Callable[..., Any]:
    """Make a class method of ``compare(cls, results, ax, ..., **options)`` that takes the options of every picture.

    ``order`` and ``labels`` are applied to the results, ``title`` and ``log`` are passed on; the others are in force
    while the picture is drawn.

    Args:
        draws: names of the functions of :mod:`sharpness.plots` that receive ``**options`` and define the valid ones.
        classes: whether classes are side by side, so that ``order`` and ``labels`` may name them.
        without: options that do not apply to this kind of picture, with the reason.

    Raises:
        UserError: when the method is called with an unknown option; the message lists the valid ones.
    """
    return lambda compare: Later(lambda: _with_options(compare, draws, classes, without or {}), of_class=True)


def _with_options(
    compare: Callable[..., Any], names: Sequence[str], classes: bool, without: Mapping[str, str]
) -> Callable[..., Any]:
    """The function that :func:`picture` describes; its signature and docstring include all options."""
    from sharpness import plots
    from sharpness.plots.options import COMMON, PlotOptions, options_in_force

    draws = [getattr(plots, name) for name in names]
    signature = inspect.signature(compare)
    first, second, *own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    own = [p for p in own if p.name != "ax"]
    taken = {p.name: p for draw in draws for p in inspect.signature(draw).parameters.values() if p.kind is _KEYWORD}
    further = [p for name, p in taken.items() if name not in (*COMMON, *INNER, *(o.name for o in own))]
    shared = [p for p in inspect.signature(PlotOptions).parameters.values() if p.name != "ax"]
    known = [p.name for p in (*own, *further)]

    @functools.wraps(compare)
    # Warnings about old names of options show this name of the function.
    @renamed_arguments(colors="palette", subset="of")
    def plot(cls: Any, results: Mapping[str, Entry], ax: Any = None, *args: Any, **given: Any) -> Any:
        for name in given.keys() - {*known, *COMMON, *INNER}:
            every = f"as every picture {', '.join(COMMON)}"
            raise UserError(f"plot has no option {name!r}: it takes {', '.join(known)}, and {every}")
        for name, why in without.items():
            if given.get(name) is not None:
                raise UserError(f"{name}={given[name]!r}: {why}")
        _require_axes(ax)
        looks = {name: given.pop(name) for name in COMMON if name in given}
        results, given, looks = (_drawn(part, _renamed(results)) for part in (results, given, looks))
        options = PlotOptions(ax=ax, **looks) if looks else options_in_force()
        given |= {name: looks[name] for name in ("title", "log") if looks.get(name) is not None}
        with options.in_force():
            return compare(cls, chosen(results, options, classes) if looks else results, ax, *args, **given)

    # The signature and the docstring of the picture, so that help(result.plot) has every option of every function.
    where = inspect.Parameter("ax", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation="Any")
    keywords = [p.replace(kind=_KEYWORD) for p in (*further, *shared)]
    plot.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[first, second, where, *own, *keywords]
    )
    every = entries_of(PlotOptions.__doc__)
    told = {name: lines for draw in reversed(draws) for name, lines in entries_of(draw.__doc__).items()}
    arguments = {"ax": every["ax"]} | entries_of(compare.__doc__)
    arguments |= {p.name: told[p.name] for p in further if p.name in told}
    arguments |= {name: lines for name, lines in every.items() if name not in (*arguments, *without)}
    plot.__doc__ = _with_arguments(compare.__doc__, arguments)
    return plot


def _require_axes(ax: Any) -> None:
    """Refuse objects that are not Axes, and projections that would change what pictures show."""
    from matplotlib.axes import Axes

    for one in [] if ax is None else np.ravel(np.asarray(ax, dtype=object)):
        if not isinstance(one, Axes) or one.name not in ("rectilinear", "3d"):
            kind = f"{one.name} Axes" if isinstance(one, Axes) else f"a {type(one).__name__}"
            raise UserError(f"ax= is {kind}: give Axes of two straight axes, such as plt.subplots()[1]")


def _renamed(results: Mapping[str, Entry]) -> dict[str, str]:
    """Models, classes and groups whose names cannot be drawn, with names that can."""
    from sharpness.plots.labels import drawable
    from sharpness.results.comparison import first_of

    first = first_of(results)
    names = [*results, *getattr(first, "class_names", ()), *getattr(first, "groups", ())]
    return {name: drawn for name in names if (drawn := drawable(str(name))) != name}


def _drawn(value: Any, renamed: Mapping[str, str]) -> Any:
    """Apply new names to results, and to options that refer to parts of them."""
    from sharpness.results.base import Result
    from sharpness.results.runs import Runs

    if not renamed:
        return value
    if isinstance(value, str):
        return renamed.get(value, value)
    if isinstance(value, Mapping):
        return {_drawn(key, renamed): _drawn(part, renamed) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_drawn(part, renamed) for part in value)
    if isinstance(value, Runs):
        return Runs([_drawn(one, renamed) for one in value], value.names)
    if isinstance(value, Result):
        names = {name: _drawn(getattr(value, name), renamed) for name in ("class_names", "groups")}
        return replace(value, **names)
    return value


def _with_arguments(doc: str | None, arguments: Mapping[str, str]) -> str:
    """Replace the entries of the section Args of a docstring, which comes before Returns and Raises."""
    text = re.sub(r"^Args:\n(?:    .*\n?)*\n?", "", inspect.cleandoc(doc or ""), flags=re.MULTILINE)
    before, *after = re.split(r"^(?=Returns:|Raises:)", text, maxsplit=1, flags=re.MULTILINE)
    return "\n\n".join([before.rstrip(), "Args:\n" + "\n".join(arguments.values()), *after])


def chosen(results: Mapping[str, Entry], options: PlotOptions, classes: bool) -> Mapping[str, Entry]:
    """The results selected by ``order``, under the names given by ``labels``.

    Raises:
        UserError: a name that is neither a model nor, if they can be named, a class; or two models of one name.
    """
    from sharpness.results.comparison import first_of

    class_names = list(first_of(results).class_names) if classes else []
    for what, names in (("order", options.order or ()), ("labels", options.labels or ())):
        for name in names:
            if name not in results and name not in class_names:
                there = ", ".join(results) + (f"; or of the classes {', '.join(class_names)}" if class_names else "")
                raise UserError(f"{what}: no model {name!r} here: choose from {there}")
    wanted = [name for name in options.order or () if name in results]
    found = {name: results[name] for name in wanted or results}
    shown = {options.name_of(label): entry for label, entry in found.items()}
    if len(shown) < len(found):
        raise UserError(f"labels={options.labels!r}: give each of {', '.join(found)} a name of its own")
    return shown


def in_order(names: Sequence[str], usual: np.ndarray) -> np.ndarray:
    """Indices of classes in the requested order, if it names classes; otherwise in the ``usual`` order."""
    from sharpness.plots.options import options_in_force

    wanted = [names.index(name) for name in options_in_force().order or () if name in names]
    return np.array([c for c in wanted if c in usual], dtype=int) if wanted else usual


def columns_of(first: Any) -> tuple[np.ndarray, list[str]]:
    """Indices and names of the columns of a picture: the classes in order, or all of them together."""
    if not first.per_class:
        return np.zeros(1, dtype=int), ["all classes"]
    order = in_order(first.class_names, first.by_size())
    return order, [first.class_names[c] for c in order]


def applying(draw: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return the options if ``draw`` accepts all of them.

    Raises:
        UserError: an option that only applies to another kind of picture.
    """
    has = [p.name for p in inspect.signature(draw).parameters.values() if p.kind is _KEYWORD]
    for name in options:
        if name not in has:
            what = f"{name}={options[name]!r} does not apply to this kind of picture"
            raise UserError(f"{what}: it takes {', '.join(n for n in has if n not in INNER)}")
    return options


def heat_maps(
    values: Mapping[str, np.ndarray], rows: Mapping[str, Sequence[str]], columns: Sequence[str], ax: Any,
    options: dict[str, Any],
) -> Any:  # fmt: skip
    """Draw values (rows, columns) of one model on ``ax``, or of several in a figure of their own.

    Args:
        rows: names of the rows, by model.

    Raises:
        UserError: Axes for several models.
    """
    from sharpness.plots import plot_layer_class, plot_layer_class_grid

    first, names = next(iter(values.values())), next(iter(rows.values()))
    if len(values) == 1:
        return plot_layer_class(first, names, columns, ax, **applying(plot_layer_class, options))
    if ax is not None:
        raise UserError("ax: a panel for each model is a figure of its own: leave it out, or draw one model")
    if any(one != names for one in rows.values()):
        options = {"rows": rows, **options}
    if options.get("annotated"):
        options = {"columns": 2, **options}  # numbers in cells need room
    return plot_layer_class_grid(values, names, columns, **applying(plot_layer_class_grid, options))


def plot_of(kind: Any, results: Callable[[Any], Mapping[str, Entry]]) -> Callable[..., Any]:
    """A method ``plot`` that draws ``results(self)``, with signature and docstring of ``kind.compare``."""

    def plot(self: Any, ax: Any = None, **options: Any) -> Any:
        return kind.compare(results(self), ax, **options)

    own = list(inspect.signature(kind.compare).parameters.values())[1:]
    own = [p if p.name == "ax" else p.replace(kind=_KEYWORD) for p in own]
    self = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    plot.__signature__ = inspect.Signature([self, *own])  # type: ignore[attr-defined]
    plot.__doc__ = kind.compare.__doc__
    return plot
