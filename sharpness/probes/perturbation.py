"""How much the loss rises when the weights are moved at random."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sharpness.errors import UserError
from sharpness.objective import Objective
from sharpness.probes.comparison import common_fields, comparable
from sharpness.probes.directions import gaussian
from sharpness.progress import progress
from sharpness.results import PerturbationResult

RADII = (0.01, 0.02, 0.05, 0.1, 0.2)


@comparable
def random_perturbation(
    objective: Objective,
    radii: Sequence[float] = RADII,
    draws: int = 5,
    normalization: str | None = "filter",
    seed: int = 0,
) -> PerturbationResult:
    r"""``L(w + r d_j)`` for every radius r and ``draws`` random directions d_j, overall and per class.

    The directions are Gaussian. Filter-normalised (the default), a radius is relative to the norm of every filter;
    with ``normalization=None`` it is the standard deviation of the noise, and for small radii the mean rise is
    :math:`\tfrac{1}{2} r^2 \operatorname{tr} H`. The same directions serve all radii and all models of an architecture.

    Args:
        objective: or ``{label: objective}``, to compare.

    Raises:
        UserError: no radii, negative ones, or no draws.
    """
    sizes = np.asarray(radii, dtype=float).reshape(-1)
    if not len(sizes) or not np.isfinite(sizes).all() or (sizes < 0).any():
        raise UserError(f"radii={sizes.tolist()}: give finite numbers, at least 0")
    if draws < 1:
        raise UserError(f"draws={draws}: give at least 1")
    base = objective.check()
    losses = np.full((len(sizes), draws), np.nan)
    class_losses = np.full((len(sizes), draws, objective.num_classes), np.nan)
    with progress(len(sizes) * draws, "random perturbation", "points") as bar:
        for j in range(draws):
            direction = gaussian(objective, j, seed, normalization)
            for i, radius in enumerate(sizes):
                with objective.at(radius * direction):
                    sums = objective.evaluate()
                losses[i, j], class_losses[i, j] = sums.mean, sums.class_means
                bar.update()
    return PerturbationResult(
        radii=sizes,
        losses=losses,
        class_losses=class_losses,
        base_loss=base.mean,
        base_class_losses=base.class_means,
        normalization=normalization,
        seed=seed,
        **common_fields(objective, probe="random_perturbation", draws=draws, evaluations=losses.size),
    )
