"""The measures there are: built in, registered, offered by installed packages, or named by their module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from sharpness.errors import UserError
from sharpness.extensions import imported, load_offered, offered
from sharpness.objective import Objective
from sharpness.probes.measures.accuracy import ACCURACY
from sharpness.probes.measures.custom import Found, measure_of
from sharpness.probes.measures.extreme_eigenvalues import LAMBDA_MAX, LAMBDA_MIN
from sharpness.probes.measures.loss import LOSS
from sharpness.probes.measures.measure import Measure
from sharpness.probes.measures.random_rise import RANDOM_RISE
from sharpness.probes.measures.trace import TRACE
from sharpness.probes.measures.worst_rise import WORST_RISE

BUILT_IN = (ACCURACY, LOSS, LAMBDA_MAX, LAMBDA_MIN, TRACE, RANDOM_RISE, WORST_RISE)
#: By name, in the order of tables.
MEASURES: dict[str, Measure] = {measure.name: measure for measure in BUILT_IN}
#: Columns that a table has already, and ends of those that it makes.
COLUMNS = ("model", "run", "class", "group", "samples", "train", "measure", "value")
ENDS = ("_se", "_sd", "_lower", "_upper")
EXAMPLE = "package.module:name, such as mymeasures:fisher_rao"


def register_measure(
    name: str,
    compute: Callable[[Objective], Found],
    title: str = "",
    *,
    symbol: str = "",
    unit: str = "",
    lower_is_flatter: bool | None = None,
    bounds: tuple[float, float] | None = None,
    symlog: bool = False,
    ratio: bool = True,
    over: str = "images",
    usual: bool = True,
) -> Measure:
    r"""Add a measure to the table, its pictures and the studies, by a function of an objective.

    The function is called with the objective of all samples, and with that of every class that has samples. A group's
    value is the mean of its classes' values, as that of any measure is; its standard error adds those of its classes
    in squares, or is their mean, an upper bound, where they are over something that classes may share.

    Args:
        name: of the column, a Python identifier; a measure of one's own that has this name already is replaced.
        compute: takes an :class:`~sharpness.Objective`, returns a number, or a number and its standard error.
        title: for pictures; made from the name unless given.
        symbol: mathtext for the axes of pictures, in the place of the title.
        unit: of the numbers.
        lower_is_flatter: True or False for a measure of sharpness or flatness, which studies then tabulate; None for
            another.
        bounds: the least and the largest value that are possible.
        symlog: whether pictures are logarithmic, for values of both signs over orders of magnitude.
        ratio: whether studies compare positive values by their ratio; else by their difference.
        over: what standard errors are over, in words: ``"images"``, of which every class has its own, or such as
            ``"20 draws"``.
        usual: whether tables have it for which no measures are named.

    Returns:
        The measure; an entry point of the group ``sharpness.measures`` may name it, or ``compute`` itself.

    Raises:
        UserError: a name that is taken or cannot be one, ``compute`` is no function, a text that cannot be drawn.

    The norm of the weights, which has no standard error:

    >>> import torch, sharpness
    >>> _ = register_measure("norm", lambda o: sum((p**2).sum() for p in o.parameters) ** 0.5, usual=False)
    >>> model, data = torch.nn.Linear(2, 2, bias=False), ([[1.0, 0.0], [0.0, 1.0]], [0, 1])
    >>> _ = torch.nn.init.eye_(model.weight)
    >>> sharpness.measure(model, data, "norm").overall.round(4).tolist()
    [1.4142]
    >>> del MEASURES["norm"]
    """
    measure = measure_of(
        name, compute, title, over, symbol=symbol, unit=unit, lower_is_flatter=lower_is_flatter,
        bounds=None if bounds is None else tuple(bounds), symlog=symlog, ratio=ratio, usual=usual,
    )  # fmt: skip
    return _added(measure)


def _added(measure: Measure) -> Measure:
    name = measure.name
    if not isinstance(name, str) or not name.isidentifier() or name in COLUMNS or name.endswith(ENDS):
        raise UserError(
            f"measure {name!r}: take a Python identifier that is none of {', '.join(COLUMNS)} and does not end in "
            f"{', '.join(ENDS)}"
        )
    if name in (built_in.name for built_in in BUILT_IN):
        raise UserError(f"measure {name!r} is built in: register yours under another name")
    measure.check()
    MEASURES[name] = measure
    return measure


def known_measures() -> tuple[str, ...]:
    """Names of all measures, those included that installed packages offer; none is loaded."""
    return tuple(dict.fromkeys([*MEASURES, *offered("measures")]))


def find_measure(name: Any) -> Measure:
    """The measure of a name, from the registry, an entry point or a module; a :class:`Measure` itself.

    Raises:
        UserError: no measure has that name, or it is a function, which has none.
    """
    if isinstance(name, Measure):
        return name
    if not isinstance(name, str):
        called = getattr(name, "__name__", type(name).__name__)
        raise UserError(
            f"measures={called}: give names of measures; sharpness.register_measure('mine', function) gives a function "
            "the name 'mine'"
        )
    if name in MEASURES:
        return MEASURES[name]
    if ":" in name:
        found = imported(name, "measure", EXAMPLE)
        return _adopted(name.rpartition(":")[2].rpartition(".")[2], found, name)
    points = offered("measures")
    if name not in points:
        raise UserError(
            f"unknown measure {name!r}: choose one of {', '.join(known_measures())}, or register it with "
            "sharpness.register_measure"
        )
    return _adopted(name, load_offered(points[name], "measure"), f"{name} of {points[name].value}")


def _adopted(name: str, found: Any, source: str) -> Measure:
    """A measure from code that was imported because its name was given; other tables go on without it."""
    if isinstance(found, Measure):
        measure = MEASURES.get(found.name, found)
    elif name in MEASURES and name not in (built_in.name for built_in in BUILT_IN):  # the import has registered it
        measure = MEASURES[name]
    elif callable(found):
        measure = measure_of(name, found, "", "images")
    else:
        raise UserError(f"measure {source}: a {type(found).__name__} is no measure: offer a function of an objective")
    return _added(replace(measure, usual=False))


def chosen_measures(names: str | Sequence[Any] | None) -> list[Measure]:
    """The measures of some names, or text with commas, in the order of tables; the usual ones unless given.

    Raises:
        UserError: an unknown measure, or none.
    """
    if names is None:
        return [measure for measure in MEASURES.values() if measure.usual]
    parts = (
        names.split(",") if isinstance(names, str) else [names] if not isinstance(names, list | tuple | dict) else names
    )
    found = [find_measure(part.strip() if isinstance(part, str) else part) for part in parts]
    if not found:
        raise UserError(f"no measures: choose some of {', '.join(known_measures())}")
    order = list(MEASURES)
    unique = {measure.name: measure for measure in found}
    return sorted(unique.values(), key=lambda m: order.index(m.name) if m.name in MEASURES else len(order))
