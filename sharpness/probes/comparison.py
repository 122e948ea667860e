"""A mapping of objectives means a comparison: one call, one result for each, shared settings."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from sharpness.errors import UserError
from sharpness.objective import Objective
from sharpness.probes.subjects import as_objective
from sharpness.results import Comparison

#: What must be equal for two results to be comparable.
SHARED = ("dtype", "data_sha256", "scope", "batchnorm", "loss_name")


def comparable(probe: Callable[..., Any]) -> Callable[..., Any]:
    """Let a probe of an objective take models and checkpoints as well, and a mapping of any of them by label.

    A mapping returns a :class:`Comparison`: every model is probed with the same arguments and seed, hence in the same
    random directions. The probe gains two arguments, ``data`` and ``options``: see
    :func:`~sharpness.probes.subjects.as_objective`.
    """

    @functools.wraps(probe)
    def probe_all(
        objective: Any, *args: Any, data: Any = None, options: Mapping[str, Any] | None = None, **settings: Any
    ) -> Any:
        if not isinstance(objective, Mapping):
            return probe(as_objective(objective, data, **(options or {})), *args, **settings)
        labels = [str(label) for label in objective]
        if len(set(labels)) < len(labels):
            raise UserError(f"labels {', '.join(labels)}: give every model one of its own")
        objectives = {str(label): as_objective(one, data, **(options or {})) for label, one in objective.items()}
        require_comparable(objectives)
        results: Comparison = Comparison()
        for label, one in objectives.items():
            results[label] = probe(one, *args, **settings)
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
                pair = f"{first_label!r} and {label!r}"
                raise UserError(f"{pair} cannot be compared: {name} is {a} and {b}, and must be the same")


def common_fields(objective: Objective, **settings: Any) -> dict[str, Any]:
    """The fields that every result has, with the probe's settings in the provenance."""
    return {
        "class_names": objective.class_names,
        "class_samples": objective.class_counts,
        "class_weights": objective.class_weights,
        "groups": objective.groups,
        "provenance": {**objective.provenance(), **settings},
    }
