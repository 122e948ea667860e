"""A measure: a column of the table, with its cost, settings and description for plots."""

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
from sharpness.probes.shared.probe import plain
from sharpness.results.description import Description

#: Name of the scale-invariant coordinates in texts.
IN_FILTER = "filter coordinates"
#: Reason for a minimum number of draws, at the end of a message.
ERROR = ", for a standard error"


@dataclass(frozen=True)
class Subject:
    """A model for which a table is computed.

    Attributes:
        objective: the objective of the model.
        base: losses and answers of all samples at the model's weights.
        names: names of the measures in the table; a function for several measures only computes these.
        resume: folder of unfinished work.
        label: label of the model, for warnings.
        executor: executor for tasks; by default threads of this process.
        known: columns of the table that have been computed already, by name.
    """

    objective: Objective
    base: SampleSums
    names: tuple[str, ...] = ()
    resume: Path | None = None
    label: str | None = None
    executor: Executor | None = None
    known: Mapping[str, Column] = field(default_factory=dict)


class Passes(NamedTuple):
    """Work of a measure, for estimating its duration.

    Attributes:
        forwards: number of forward passes over all samples.
        gradients: number of gradients of every class, over its samples.
        products: number of products of every class, over its samples.
        of_all: number of products over all samples together.
        draws: number of random vectors of a trace of every class, with one product each unless the trace is exact.
    """

    forwards: float = 0
    gradients: float = 0
    products: float = 0
    of_all: float = 0
    draws: float = 0


# Named functions instead of lambdas, because measures are pickled for other processes.
def no_passes(settings: Any) -> Passes:
    """The default passes of a measure: none."""
    return Passes()


def always(objective: Objective) -> bool:
    """Return True: by default, a measure needs nothing but samples."""
    return True


@dataclass(frozen=True)
class NoSettings:
    """Settings of a measure without settings."""


@dataclass(frozen=True)
class Measure(Description):
    """A measure of all samples and of every class, and its description; see :func:`register_measure`.

    Attributes:
        name: name in tables, files and calls.
        compute: function ``compute(subject, settings)`` that returns columns by name: this one, and possibly others
            that it computes at no extra cost.
        settings: a frozen dataclass with defaults, whose fields are arguments of :func:`~sharpness.measure`; it
            raises a :class:`~sharpness.UserError` for values out of range.
        passes: function from settings to the work for all classes and all samples.
        usual: whether the measure is in tables for which no measures are named.
        ratio: whether two positive values are compared by their ratio instead of their difference.
        needs_labels: whether targets must be labels.
        present: function that tells whether an objective has what the measure needs; if not, tables without named
            measures and ``"all"`` leave it out.
        explained: description relative to a loss, with settings in braces, and ``{in_coordinates}`` after "Hessian":
            ``"its rise after a step of length {rho:g}"``.
        version: digest of the code, if saved tables depend on it.
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
        """Names of the arguments that set the measure."""
        return tuple(f.name for f in fields(self.settings))

    def set_by(self, given: Mapping[str, Any]) -> Any:
        """Make the settings from arguments by name; other arguments are ignored."""
        return self.settings(**{name: plain(given[name]) for name in self.setting_names if name in given})

    def in_words(self, given: Mapping[str, Any]) -> str:
        """Describe the measure in words, with settings from arguments by name."""
        settings = asdict(self.set_by(given))
        where = f" in {IN_FILTER}" if settings.get("coordinates") == "filter" else ""
        return self.explained.format(**settings, in_coordinates=where) or self.title

    def shown_with(self, settings: Any) -> dict[str, Any]:
        """The description for a file, including the coordinates of the numbers."""
        filtered = getattr(settings, "coordinates", "plain") == "filter"
        return self.plain | ({"unit": ", ".join(filter(None, [self.unit, IN_FILTER]))} if filtered else {})


def require_positive(name: str, value: object) -> None:
    """Raise a :class:`UserError` unless ``value`` is a finite number above 0."""
    if not isinstance(value, int | float | np.number) or not 0 < value < np.inf:
        raise UserError(f"{name}={value}: give a finite number above 0")
