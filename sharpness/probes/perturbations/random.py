r"""Rises of the loss under random perturbations of the weights.

.. code-block:: text

    g_j ~ N(0, I_k)                                     by seed and draw, see directions/gaussian.py
    d_j = normalize(g_j)                                "gaussian"
        = normalize(g_j / |g_j|)                        "sphere"
        = normalize(sqrt(3) (2 Phi(g_j) - 1))           "uniform": entries of U(-sqrt 3, sqrt 3), of variance 1
    L(w + r d_j) for every radius r and draw j

Without normalisation, r is the standard deviation of every entry or, for ``"sphere"``, the length of the displacement.
To second order in r, the mean rise is :math:`\tfrac12 r^2 \operatorname{tr} H`, divided by k for ``"sphere"``. With
``"filter"`` or ``"layer"``, every block of the displacement has r times the norm of the model's block. Gaussian blocks
are then uniform on a sphere as well, so that ``"sphere"`` is the same as ``"gaussian"``.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from sharpness.errors import UserError, choose
from sharpness.objective import Objective
from sharpness.probes.directions.gaussian import NORMALIZATIONS, gaussian, normalize
from sharpness.probes.shared.comparison import common_fields
from sharpness.probes.shared.point_table import PointTable
from sharpness.probes.shared.probe import Given, comparable
from sharpness.results import PerturbationResult

RADII = (0.01, 0.02, 0.05, 0.1, 0.2)
DISTRIBUTIONS = ("gaussian", "sphere", "uniform")


@comparable
def random_perturbation(
    objective: Objective,
    radii: Sequence[float] = RADII,
    draws: int = 5,
    normalization: str | None = "filter",
    seed: int = 0,
    *,
    distribution: str = "gaussian",
    resume: str | Path | None = None,
    executor: Executor | None = None,
    **given: Unpack[Given],
) -> PerturbationResult:
    r"""Evaluate the loss under random perturbations, ``L(w + r d_j)``, for every radius r and direction d_j, per class.

    The same directions are used for all radii and, with the same seed, for all models of an architecture and all data.
    To get the rise of training and test loss at the same points, call it once with each objective. Only the parameters
    in the objective's scope move: ``parameters="all"``, ``"backbone"`` or ``"classifier"``. Points are evaluated in the
    model's own precision, because differences are small compared to the loss. Under torchrun, processes share the
    points.

    Args:
        objective: an objective, a model with ``data`` or a checkpoint; or ``{label: one of these}``, to compare them.
        radii: radii, in units set by the normalisation, see above.
        draws: D, the number of random directions d_j.
        normalization: ``"filter"`` or ``"layer"`` (relative to the norms of the model's filters or layers; biases and
            BatchNorm parameters are not moved), or None.
        seed: seed of the directions.
        distribution: ``"gaussian"``, ``"sphere"`` or ``"uniform"``, as above.
        resume: folder for finished points; a call with the same settings resumes from them.
        executor: executor that evaluates blocks of points, see :func:`sharpness.cluster`; by default this process does.
        given: ``data`` and ``options``: see :class:`~sharpness.probes.shared.probe.Given`.

    Returns:
        Losses (R, D) by radius and draw, class losses and accuracies (R, D, C), and the values of the unperturbed
        model.
        For a mapping, a :class:`~sharpness.Comparison` of such results by label.

    Raises:
        UserError: no radii, negative radii, no draws, or an unknown distribution or normalisation.

    A loss that is linear in two weights, which are moved by length 2 in a random direction:

    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> data = torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([0, 0])
    >>> objective = Objective(model, data, loss=lambda outputs, targets: outputs[:, 0])
    >>> result = random_perturbation(objective, [2.0], 400, None, distribution="sphere")
    >>> rises = result.draws() - result.base()
    >>> round(float(abs(rises).max()), 2)
    5.0
    """
    choose("distribution", distribution, DISTRIBUTIONS)
    choose("normalization", normalization, NORMALIZATIONS)
    sizes = np.asarray(radii, dtype=float).reshape(-1)
    if not len(sizes) or not np.isfinite(sizes).all() or (sizes < 0).any():
        raise UserError(f"radii={sizes.tolist()}: give finite numbers, at least 0")
    if draws < 1:
        raise UserError(f"draws={draws}: give at least 1")
    objective.check()

    # The radii of a draw are consecutive points, of which an executor's workers take blocks.
    settings = {"radii": sizes.tolist(), "normalization": normalization, "seed": seed, "distribution": distribution}
    table = PointTable(
        objective, _Displacement(objective, sizes, seed, normalization, distribution), draws * len(sizes),
        "random perturbation", objective.precision, resume, {"probe": "random_perturbation", **settings}, executor,
    )  # fmt: skip
    table.evaluate()
    shape, classes = (draws, len(sizes)), objective.num_classes
    return PerturbationResult(
        radii=sizes,
        losses=table.losses.reshape(shape).T,
        class_losses=table.class_losses.reshape(-1, *shape).T,
        class_accuracies=table.class_accuracies.reshape(-1, *shape).T,
        base_loss=float(table.center[0]),
        base_class_losses=table.center[1 : 1 + classes],
        base_class_accuracies=table.center[1 + classes :],
        normalization=normalization,
        distribution=distribution,
        seed=seed,
        **common_fields(objective, probe="random_perturbation", draws=draws, evaluations=draws * len(sizes)),
    )


class _Displacement:
    """The displacement ``r d_j`` of a point; the radii of a draw are consecutive, so each direction is drawn once."""

    def __init__(self, objective: Objective, radii: np.ndarray, *drawn_by: Any) -> None:
        self.objective, self.radii, self.drawn_by = objective, radii, drawn_by
        self.last: tuple[int, Tensor] | None = None

    def __call__(self, i: int) -> Tensor:
        j, r = divmod(i, len(self.radii))
        if self.last is None or self.last[0] != j:
            self.last = j, draw_direction(self.objective, j, *self.drawn_by)
        return float(self.radii[r]) * self.last[1]


def draw_direction(
    objective: Objective,
    draw: int,
    seed: int = 0,
    normalization: str | None = "filter",
    distribution: str = "gaussian",
) -> Tensor:
    """Draw direction number ``draw`` of ``seed``, flat (k,), from the noise of ``directions/gaussian.py``."""
    if distribution == "gaussian":
        return gaussian(objective, draw, seed, normalization)
    noise = gaussian(objective, draw, seed, None).cpu().double()
    if distribution == "sphere":
        noise /= noise.norm()
    else:
        noise = 3**0.5 * torch.erf(noise / 2**0.5)  # 2 Phi(g) - 1 = erf(g / sqrt 2)
    return normalize(objective, noise, normalization)
