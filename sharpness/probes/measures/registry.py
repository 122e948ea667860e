"""The registry of measures: built in, registered, offered by installed packages, or named by their module."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint
from typing import Annotated, Any, TypedDict, Unpack

from sharpness import registries
from sharpness.errors import UserError
from sharpness.extensions import imported
from sharpness.keywords import Default, typed_keywords
from sharpness.objective import Objective
from sharpness.probes.measures.custom import Found, measure_of
from sharpness.probes.measures.measure import Measure
from sharpness.registry import Registry


class MeasureRegistry(Registry[Measure]):
    """Measures by name; a function of an objective is converted to a measure."""

    def __setitem__(self, name: str, thing: Any) -> None:
        super().__setitem__(name, thing if isinstance(thing, Measure) else measure_of(name, thing))

    def _load(self, name: str, points: list[EntryPoint]) -> None:
        super()._load(name, points)
        # A table without named measures must not depend on the measures named by earlier tables.
        self[name] = replace(self[name], usual=False)

    @property
    def usual(self) -> list[Measure]:
        """The built-in and registered measures in tables for which no measures are named."""
        return [measure for measure in self.loaded if measure.usual]

    @property
    def loaded(self) -> list[Measure]:
        """All measures, except those of installed packages that have not been named yet."""
        return [self[name] for name in {**self._built_in, **self._things}]


#: All measures by name, in the order of tables.
MEASURES = MeasureRegistry(
    "measure",
    "sharpness.measures",
    registries.MEASURES,
    wanted="a measure, or a function of an objective",
    fits=lambda thing: isinstance(thing, Measure) or callable(thing),
)
#: The name that means all measures.
ALL = "all"
#: Other columns of tables, and suffixes of the columns of a measure.
COLUMNS = ("model", "run", "class", "group", "samples", "train", "measure", "value")
ENDS = ("_se", "_sd", "_lower", "_upper")
EXAMPLE = "package.module:name, such as mymeasures:fisher_rao"


class MeasureDescription(TypedDict, total=False):
    """Description of a measure, for tables, plots and studies.

    Attributes:
        symbol: mathtext for the axes of plots, instead of the title.
        unit: unit of the numbers.
        lower_is_flatter: True or False for a measure of sharpness or flatness, which studies then include; None for
            other measures.
        bounds: the smallest and the largest possible value.
        symlog: whether plots use a symmetric logarithmic scale, for values of both signs over orders of magnitude.
        ratio: whether studies compare positive values by their ratio instead of their difference.
        usual: whether tables include it when no measures are named.
    """

    symbol: Annotated[str, Default("")]
    unit: Annotated[str, Default("")]
    lower_is_flatter: bool | None
    bounds: tuple[float, float] | None
    symlog: Annotated[bool, Default(False)]
    ratio: Annotated[bool, Default(True)]
    usual: Annotated[bool, Default(True)]


@typed_keywords()
def register_measure(
    name: str,
    compute: Callable[[Objective], Found],
    title: str = "",
    *,
    over: str = "images",
    **described: Unpack[MeasureDescription],
) -> Measure:
    r"""Register a function of an objective as a measure for tables, plots and studies.

    The function is called with the objective of all samples, and with that of every class that has samples. As for any
    measure, the value of a group is the mean over its classes. The group's standard error combines those of its classes
    in quadrature if they are over images, and otherwise is their mean, an upper bound, because classes may share the
    draws.

    Args:
        name: name of the column, a Python identifier; replaces a measure that you registered under this name before.
        compute: function that takes an :class:`~sharpness.Objective` and returns a number, or a number and its standard
            error.
        title: title in plots; by default made from the name.
        over: what standard errors are over, in words: ``"images"``, which classes do not share, or for example ``"20
            draws"``.
        described: see :class:`MeasureDescription`.

    Returns:
        The measure. An entry point of the group ``sharpness.measures`` may point to it, or to ``compute``.

    Raises:
        UserError: a name that is taken or invalid, ``compute`` is not a function, or a text that cannot be drawn.

    The norm of the weights, without a standard error:

    >>> import torch, sharpness
    >>> _ = register_measure("norm", lambda o: sum((p**2).sum() for p in o.parameters) ** 0.5, usual=False)
    >>> model, data = torch.nn.Linear(2, 2, bias=False), ([[1.0, 0.0], [0.0, 1.0]], [0, 1])
    >>> _ = torch.nn.init.eye_(model.weight)
    >>> sharpness.measure(model, data, "norm").overall.round(4).tolist()
    [1.4142]
    >>> del MEASURES["norm"]
    """
    # The column must differ from other columns, and from those for errors and intervals.
    if not isinstance(name, str) or not name.isidentifier() or name in (ALL, *COLUMNS) or name.endswith(ENDS):
        raise UserError(
            f"measure {name!r}: take a Python identifier that is none of {', '.join((ALL, *COLUMNS))} and does not end "
            f"in {', '.join(ENDS)}"
        )
    if (bounds := described["bounds"]) is not None:
        described["bounds"] = tuple(bounds)  # type: ignore[typeddict-item]
    measure = measure_of(name, compute, title, over, **described)
    measure.check()
    return MEASURES.register(name, measure)


def find_measure(name: Any) -> Measure:
    """Find a measure by name, in the registry or in a module (``"package.module:name"``).

    Raises:
        UserError: no measure has this name, or a function was given instead of a name.
    """
    if not isinstance(name, str):
        called = getattr(name, "__name__", type(name).__name__)
        raise UserError(
            f"measures={called}: give names of measures; sharpness.register_measure('mine', function) gives a function "
            "the name 'mine'"
        )
    if ":" not in name:
        return MEASURES.choose(name)
    found = imported(name, "measure", EXAMPLE)
    if not isinstance(found, Measure):
        found = register_measure(name.rpartition(":")[2].rpartition(".")[2], found)
    return MEASURES.register(found.name, replace(found, usual=False))


def chosen_measures(names: str | Sequence[Any] | None) -> list[Measure]:
    """Find measures by names in the order of tables.

    Args:
        names: a sequence of names, comma-separated names, or ``"all"``; None for the usual measures.

    Raises:
        UserError: an unknown measure, or no measures.
    """
    if names is None:
        return MEASURES.usual
    if names == ALL:
        return MEASURES.loaded
    parts = (
        names.split(",") if isinstance(names, str) else [names] if not isinstance(names, list | tuple | dict) else names
    )
    found = [find_measure(part.strip() if isinstance(part, str) else part) for part in parts]
    if not found:
        raise UserError(f"no measures: choose some of {', '.join(MEASURES)}")
    order = list(MEASURES)
    return sorted({measure.name: measure for measure in found}.values(), key=lambda m: order.index(m.name))


def versions_of(measures: Iterable[Measure]) -> dict[str, str]:
    """Digests of the code of measures that are not built in, for the provenance."""
    return {f"version of {measure.name}": measure.version for measure in measures if measure.version}
