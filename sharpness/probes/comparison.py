"""A mapping of objectives means a comparison: one call, one result for each, shared settings."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from sharpness.errors import UserError
from sharpness.objective import Objective
from sharpness.results import Comparison

#: What must be equal for two results to be comparable.
SHARED = ("data_sha256", "scope", "batchnorm", "loss_name", "dtype")


def comparable(probe: Callable[..., Any]) -> Callable[..., Any]:
    """Let a probe of one objective take ``{label: objective}`` too, and return a :class:`Comparison`.

    Every model is probed with the same arguments and seed, hence the same random directions.
    """

    @functools.wraps(probe)
    def probe_all(objective: Objective | Mapping[str, Objective], *args: Any, **options: Any) -> Any:
        if not isinstance(objective, Mapping):
            return probe(objective, *args, **options)
        require_comparable(objective)
        results: Comparison = Comparison()
        for label, one in objective.items():
            results[label] = probe(one, *args, **options)
            results[label].provenance["label"] = label
        return results

    return probe_all


def require_comparable(objectives: Mapping[str, Objective]) -> None:
    """Refuse objectives that differ in data, scope, BatchNorm policy, loss or precision.

    Raises:
        UserError: names the field that differs, and both values.
    """
    if not objectives:
        raise UserError("an empty mapping of objectives: there is nothing to compare")
    (first_label, first), *rest = objectives.items()
    for label, other in rest:
        for name in SHARED:
            a, b = getattr(first, name), getattr(other, name)
            if a != b:
                raise UserError(f"{first_label!r} and {label!r} cannot be compared: {name} is {a} and {b}")


def common_fields(objective: Objective, **settings: Any) -> dict[str, Any]:
    """The fields that every result has, with the probe's settings in the provenance."""
    return {
        "class_names": objective.class_names,
        "class_samples": objective.class_counts,
        "groups": objective.groups,
        "provenance": {**objective.provenance(), **settings},
    }
