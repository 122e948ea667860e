"""The mean rise of the loss in random directions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sharpness.errors import require_whole
from sharpness.probes.measures.column import Column, Subject
from sharpness.probes.measures.measure import ERROR, Measure, Passes, require_positive
from sharpness.probes.perturbations.random import random_perturbation
from sharpness.results import PerturbationResult


@dataclass(frozen=True)
class RandomDirections:
    """Settings of the mean rise, see :func:`~sharpness.random_perturbation`.

    Args:
        radius: distance, relative to the norms of the model's filters.
        draws: filter-normalised directions.
        seed: of them.
    """

    radius: float = 0.1
    draws: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        require_positive("radius", self.radius)
        require_whole("draws", self.draws, 2, ERROR)
        require_whole("seed", self.seed)


def random_rise(subject: Subject, settings: RandomDirections) -> dict[str, Column]:
    """Means over the draws, which all classes share; those of groups are the spread of the groups' means."""
    objective = subject.objective
    found = random_perturbation(objective, [settings.radius], settings.draws, seed=settings.seed, resume=subject.resume)
    assert isinstance(found, PerturbationResult)
    rows = [*range(objective.num_classes), None, *objective.groups]
    mean, error, lower, upper = np.array([[*found.rise(row), *found.interval(row)] for row in rows])[..., 0].T
    ends, groups = np.stack([lower, upper]), objective.num_classes + 1
    column = Column(
        mean[:groups], error[:groups], ends[:, :groups], f"{settings.draws} draws", error[groups:], ends[:, groups:]
    )
    return {"random_rise": column}


RANDOM_RISE = Measure(
    "random_rise", random_rise, RandomDirections, lambda settings: Passes(forwards=settings.draws),
    title="Random rise", lower_is_flatter=True,
    explained="its mean rise at relative distance {radius:g} in {draws} filter-normalised random directions",
)  # fmt: skip
