"""The mean rise of the loss in random directions."""

from __future__ import annotations

from dataclasses import dataclass

from sharpness.errors import require_whole
from sharpness.probes.measures.measure import ERROR, Measure, Passes, Subject, require_positive
from sharpness.probes.perturbations.random import random_perturbation
from sharpness.probes.shared.column import Column
from sharpness.results import PerturbationResult


@dataclass(frozen=True)
class RandomDirections:
    """Settings of the mean rise, see :func:`~sharpness.random_perturbation`.

    Args:
        radius: distance, relative to the norms of the model's filters.
        draws: number of filter-normalised directions.
        seed: seed of the directions.
    """

    radius: float = 0.1
    draws: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        require_positive("radius", self.radius)
        require_whole("draws", self.draws, 2, ERROR)
        require_whole("seed", self.seed)


def random_rise(subject: Subject, settings: RandomDirections) -> dict[str, Column]:
    """Compute mean rises over draws shared by all classes; a group's error is from the spread of its mean."""
    objective = subject.objective
    found = random_perturbation(
        objective, [settings.radius], settings.draws, seed=settings.seed, resume=subject.resume,
        executor=subject.executor,
    )  # fmt: skip
    assert isinstance(found, PerturbationResult)
    return {"random_rise": Column.of_result(found, "rise", f"{settings.draws} draws")}


RANDOM_RISE = Measure(
    "random_rise", random_rise, RandomDirections, lambda settings: Passes(forwards=settings.draws),
    title="Random rise", lower_is_flatter=True,
    explained="its mean rise at relative distance {radius:g} in {draws} filter-normalised random directions",
)  # fmt: skip
