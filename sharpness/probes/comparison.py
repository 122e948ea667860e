"""A mapping of objectives means a comparison: one call, one result for each, shared settings."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from sharpness.data import DATASETS, is_data
from sharpness.errors import UserError
from sharpness.objective import Objective
from sharpness.probes.directions import noise_keys
from sharpness.probes.subjects import as_objective
from sharpness.probes.trainings import Training, compared, trainings
from sharpness.results.same import SHARED, SPLIT, require_equal

#: Attributes of an objective that have another name in its provenance.
ATTRIBUTES = {"loss": "loss_name", "dtype": "precision"}
logger = logging.getLogger("sharpness")


def comparable(probe: Callable[..., Any]) -> Callable[..., Any]:
    """Let a probe of an objective take models and checkpoints as well, and a mapping of any of them by label.

    A mapping returns a :class:`Comparison`: every model is probed with the same arguments and seed, hence in the same
    random directions. A list under a label is several trainings of one model, whose results are :class:`Runs`.
    The probe gains two arguments, ``data``, which may also follow the model without its name, and ``options``: see
    :func:`~sharpness.probes.subjects.as_objective`.
    """

    @functools.wraps(probe)
    def probe_all(
        objective: Any, *args: Any, data: Any = None, options: Mapping[str, Any] | None = None, **settings: Any
    ) -> Any:
        if data is None and args and (is_data(args[0]) or (isinstance(args[0], str) and args[0] in DATASETS)):
            data, *args = args  # type: ignore[assignment]
        if not isinstance(objective, Mapping):
            return probe(as_objective(objective, data, **(options or {})), *args, **settings)
        models = [
            one._replace(subject=as_objective(one.subject, data, **(options or {}))) for one in trainings(objective)
        ]
        objectives = {one.label if one.run is None else f"{one.label}, {one.run}": one.subject for one in models}
        require_comparable(objectives)

        def probed(one: Training) -> Any:
            result = probe(one.subject, *args, **settings)
            if one is models[0] and _is_random(result):
                _warn_of_shapes(objectives)
            return result

        return compared(models, probed)

    return probe_all


def require_comparable(objectives: Mapping[str, Objective]) -> None:
    """Refuse objectives that differ in data, scope, BatchNorm policy, loss, precision, classes or groups.

    Raises:
        UserError: names the field that differs, and both values.
    """
    if not objectives:
        raise UserError("an empty mapping of objectives: there is nothing to compare")
    described: dict[str, dict[str, Any]] = {}
    for label, one in objectives.items():
        described[label] = {name: getattr(one, ATTRIBUTES.get(name, name)) for name in (*SHARED, *SPLIT)}
        if one.loss_name == "<lambda>":  # the name of any such function
            described[label]["loss"] = one.loss_function
    require_equal(described)


def _is_random(result: Any) -> bool:
    """Whether Gaussian noise has moved the weights."""
    names = getattr(result, "directions", "gaussian" if hasattr(result, "distribution") else "")
    return "gaussian" in names.split("+")


def _warn_of_shapes(objectives: Mapping[str, Objective]) -> None:
    """Models of different architectures may be compared, as by Li et al., yet not under the same noise.

    Vectors are left out: filter normalisation does not move them, and a linear head has a bias where others have none.
    """
    (first_label, first), *rest = objectives.items()
    known = set(noise_keys(first).values())
    for label, one in rest:
        sizes = {key: math.prod(key[0]) for key in noise_keys(one).values() if len(key[0]) > 1}
        own = sum(size for key, size in sizes.items() if key not in known)
        if own:
            logger.warning(
                "the noise is not the same: %.0f %% of the weights of %r have shapes that %r has not, and noise of "
                "their own", max(1.0, 100 * own / sum(sizes.values())), label, first_label,
            )  # fmt: skip


def common_fields(objective: Objective, **settings: Any) -> dict[str, Any]:
    """The fields that every result has, with the probe's settings in the provenance."""
    return {
        "class_names": objective.class_names,
        "class_samples": objective.class_counts,
        "class_weights": objective.class_weights,
        "groups": objective.groups,
        "provenance": {**objective.provenance(), **settings},
    }
