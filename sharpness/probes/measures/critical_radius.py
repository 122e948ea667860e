"""The critical radius along random directions, and along the last update of the training."""

from __future__ import annotations

from sharpness.probes.directions.run_steps import has_update
from sharpness.probes.measures.measure import Measure, NoSettings, Passes, Subject
from sharpness.probes.measures.random_rise import RandomDirections
from sharpness.probes.perturbations.critical_radius import POINTS, critical_radius
from sharpness.probes.shared.column import Column
from sharpness.results import MeasureResult


def radius_of_classes(subject: Subject, settings: RandomDirections) -> dict[str, Column]:
    """Compute means over random directions, shared by all classes, see :func:`~sharpness.critical_radius`."""
    found = critical_radius(subject.objective, "random", settings.draws, seed=settings.seed)
    assert isinstance(found, MeasureResult)
    return {"critical_radius": Column.of_result(found, "random", found.over[0])}


def radius_along_update(subject: Subject, settings: NoSettings) -> dict[str, Column]:
    """Compute the radius along the last update of the weights, a single direction without a standard error."""
    found = critical_radius(subject.objective, "update")
    assert isinstance(found, MeasureResult)
    return {"update_radius": Column.of_result(found, "update", found.over[0])}


CRITICAL_RADIUS = Measure(
    "critical_radius", radius_of_classes, RandomDirections, lambda settings: Passes(forwards=POINTS * settings.draws),
    title="Critical radius", unit="weight norms", lower_is_flatter=False, usual=False,
    explained="the distance in {draws} random directions at which it doubles, or accuracy falls by ten points",
)  # fmt: skip
UPDATE_RADIUS = Measure(
    "update_radius", radius_along_update, passes=lambda settings: Passes(forwards=POINTS), present=has_update,
    title="Critical radius, last update", unit="weight norms", lower_is_flatter=False, usual=False,
    explained="the distance along the last update of training at which it doubles, or accuracy falls by ten points",
)  # fmt: skip
