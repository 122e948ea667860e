"""A measure: a column of the table, with what it costs, how it is set and how it is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sharpness.engine.class_sums import SampleSums
from sharpness.errors import UserError
from sharpness.objective import Objective
from sharpness.probes.shared.column import Column
from sharpness.results.description import Description

#: Words for coordinates that rescaling does not change.
IN_FILTER = "filter coordinates"
#: Reason of a least number of draws.
ERROR = ", for a standard error"


@dataclass(frozen=True)
class Subject:
    """A model whose table is made.

    Attributes:
        base: losses and answers at its weights.
        names: measures of the table: what gives several computes those.
        resume: folder of unfinished work.
        label: of the model, for warnings.
        executor: does what can be done side by side, in threads of this process unless given.
        known: columns of the table that are there already, by name.
    """

    objective: Objective
    base: SampleSums
    names: tuple[str, ...] = ()
    resume: Path | None = None
    label: str | None = None
    executor: Executor | None = None
    known: Mapping[str, Column] = field(default_factory=dict)


class Passes(NamedTuple):
    """Work of a measure, for the estimate of how long it takes.

    Attributes:
        forwards: passes over all samples.
        gradients: of every class, over its samples.
        products: of every class, over its samples.
        of_all: products over all samples together.
    """

    forwards: float = 0
    gradients: float = 0
    products: float = 0
    of_all: float = 0


# Functions with names, because measures are sent to other processes, which find these by them.
def no_passes(settings: Any) -> Passes:
    """The passes of a measure that tells none."""
    return Passes()


def always(objective: Objective) -> bool:
    """The answer of a measure that needs nothing but samples."""
    return True


@dataclass(frozen=True)
class NoSettings:
    """Settings of a measure that has none."""


@dataclass(frozen=True)
class Measure(Description):
    """A measure of all samples and of every class, and how it is shown; see :func:`register_measure`.

    Attributes:
        name: in tables, files and calls.
        compute: ``compute(subject, settings)`` returns columns by name: this one, and others that come at no cost.
        settings: a frozen dataclass with defaults, whose fields are arguments of :func:`~sharpness.measure`; it
            raises a :class:`~sharpness.UserError` for values out of range.
        passes: work of all classes and all samples with such settings.
        usual: whether the measure is in tables for which no measures are named.
        ratio: whether two positive values are compared by their ratio; else by their difference.
        needs_labels: whether targets must be labels.
        present: whether an objective has what else the measure needs; ``"all"`` leaves it out where not.
        explained: of a loss, in words, with settings in braces, and ``{in_coordinates}`` behind a Hessian:
            ``"its rise after a step of length {rho:g}"``.
        version: of the code, where tables that are kept must not outlive it.
    """

    name: str
    compute: Callable[[Subject, Any], dict[str, Column]]
    settings: type[Any] = NoSettings
    passes: Callable[[Any], Passes] = no_passes
    usual: bool = field(default=True, kw_only=True)
    ratio: bool = field(default=True, kw_only=True)
    needs_labels: bool = field(default=False, kw_only=True)
    present: Callable[[Objective], bool] = field(default=always, kw_only=True)
    explained: str = field(default="", kw_only=True)
    version: str = field(default="", kw_only=True)

    @property
    def setting_names(self) -> tuple[str, ...]:
        """Arguments that set it."""
        return tuple(f.name for f in fields(self.settings))

    def set_by(self, given: Mapping[str, Any]) -> Any:
        """Settings from arguments by name, of which others are left alone."""
        return self.settings(**{name: given[name] for name in self.setting_names if name in given})

    def in_words(self, given: Mapping[str, Any]) -> str:
        """The measure in words, with its settings from arguments by name."""
        settings = asdict(self.set_by(given))
        where = f" in {IN_FILTER}" if settings.get("coordinates") == "filter" else ""
        return self.explained.format(**settings, in_coordinates=where) or self.title

    def shown_with(self, settings: Any) -> dict[str, Any]:
        """The description for a file, with the coordinates that its numbers are in."""
        filtered = getattr(settings, "coordinates", "plain") == "filter"
        return self.plain | ({"unit": ", ".join(filter(None, [self.unit, IN_FILTER]))} if filtered else {})


def require_positive(name: str, value: object) -> None:
    """Raise a :class:`UserError` unless ``value`` is a finite number above 0."""
    if not isinstance(value, int | float | np.number) or not 0 < value < np.inf:
        raise UserError(f"{name}={value}: give a finite number above 0")
