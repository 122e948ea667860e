"""Measures requested for a table, with their settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import FunctionType
from typing import Any

from sharpness.data import DATASETS
from sharpness.errors import UserError
from sharpness.objective import Objective
from sharpness.probes.measures.measure import Measure
from sharpness.probes.measures.registry import ALL, MEASURES, chosen_measures


@dataclass(frozen=True)
class Asked:
    """Requested measures with their settings.

    Attributes:
        usual: whether no measures were named, so that those are used which a model has.
    """

    settings: dict[Measure, Any]
    usual: bool

    @property
    def by_name(self) -> dict[str, Any]:
        """Settings by the names of the measures."""
        return {measure.name: settings for measure, settings in self.settings.items()}

    def of(self, objective: Objective) -> dict[Measure, Any]:
        """Select the measures that an objective has, with their settings.

        Raises:
            UserError: a measure was requested by name that needs labels, and targets are not labels.
        """
        kept = {m: settings for m, settings in self.settings.items() if objective.has_answers or not m.needs_labels}
        for measure, settings in kept.items():
            if "coordinates" in measure.setting_names and settings.coordinates is None:
                kept[measure] = replace(settings, coordinates=objective.coordinates)
        if self.usual:
            return {m: settings for m, settings in kept.items() if m.present(objective)}
        if missing := [m.name for m in self.settings if m not in kept]:
            raise UserError(
                f"no {', '.join(missing)}: it compares the largest of several outputs with an integer label; leave it "
                "out"
            )
        return kept


def told_apart(given: Sequence[Any], data: Any, measures: Any) -> tuple[Any, Any]:
    """Tell data and measures apart among positional arguments.

    Raises:
        UserError: one of them was given twice, or an argument is neither.
    """
    found = {"data": data, "measures": measures}
    for value in given:
        value = ALL if value is MEASURES else value
        parts = value.split(",") if isinstance(value, str) else value
        named = isinstance(parts, list | tuple) and all(isinstance(part, str | FunctionType) for part in parts)
        named = named and not (isinstance(value, str) and value in DATASETS)
        known = (ALL, *MEASURES)
        if isinstance(value, str) and named and not any(":" in part or part.strip() in known for part in parts):
            raise UserError(
                f"{value!r} is no measure and no data set: choose some of {', '.join(MEASURES)}, or one of "
                f"{', '.join(DATASETS)}"
            )
        if callable(value) and not hasattr(value, "__iter__") and not hasattr(value, "__getitem__"):
            told = getattr(value, "__name__", type(value).__name__)
            raise UserError(f"{told} is neither data nor a measure: give a loss as loss=, measures as measures=[f]")
        what = "measures" if named else "data"
        if found[what] is not None:
            raise UserError(f"{what} are given twice: give them once, data as (x, y)")
        found[what] = value
    return found["data"], found["measures"]


def asked_for(measures: Any, numbers: dict[str, Any], options: dict[str, Any]) -> Asked:
    """Collect the requested measures with their settings.

    Args:
        measures: names of measures, as :func:`~sharpness.measure` takes them.
        numbers: settings of built-in measures by name.
        options: other options; settings of the requested measures are removed from them.

    Raises:
        UserError: an unknown measure, or a setting out of range, even of a measure that was not requested.
    """
    chosen = chosen_measures(measures)
    own = {name for measure in chosen for name in measure.setting_names} - numbers.keys()
    numbers = numbers | {name: options.pop(name) for name in own & options.keys()}
    for measure in MEASURES.loaded:
        measure.set_by(numbers)
    return Asked({measure: measure.set_by(numbers) for measure in chosen}, measures is None or measures == ALL)
