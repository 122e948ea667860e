"""Owners of sharp directions: the shares of classes in the largest eigenvalues of the whole loss."""

from __future__ import annotations

from typing import Unpack

from sharpness.objective import Objective
from sharpness.probes.curvature.class_shares import require_distance
from sharpness.probes.curvature.eigenvalues import eigenvalues
from sharpness.probes.shared.probe import Resumed, comparable
from sharpness.results import EigenvalueResult, OwnersResult


@comparable
def owners(
    objective: Objective,
    k: int = 10,
    which: str = "LA",
    *,
    epsilon: float | None = None,
    coordinates: str | None = None,
    tol: float = 1e-3,
    max_iterations: int = 100,
    seed: int = 0,
    **given: Unpack[Resumed],
) -> OwnersResult:
    r"""Find which classes own the sharpest directions of the loss.

    For every eigenvector :math:`v_j` of the Hessian of the overall loss, this computes for each class its share of the
    eigenvalue, :math:`(A_c / A)\, v_j' H_c v_j / \lambda_j`, where :math:`A_c` is the weight of class c and A their
    sum; the slope of its mean loss, :math:`g_c' v_j`; and the change of its accuracy at :math:`\pm\epsilon_j` along
    :math:`v_j`. The cost is that of :func:`~sharpness.eigenvalues`, plus one second derivative of every sample and two
    forward passes per direction. Shares describe the curvature at w, not the loss at a distance.

    Args:
        objective: an objective, a model with ``data`` or a checkpoint; or ``{label: one of these}``, to compare them.
        k: number of directions at each end of the spectrum.
        which: ``"LA"`` for the largest eigenvalues, ``"SA"`` for the smallest, or ``"both"``.
        epsilon: distance along unit vectors; by default the distance at which the quadratic approximation changes the
            loss by 0.1, :math:`\sqrt{0.2 / |\lambda_j|}`.
        coordinates: ``"plain"`` or ``"filter"``, see :func:`~sharpness.eigenvalues`; they also apply to distances.
        tol: tolerance of eigenvalue residuals.
        max_iterations: maximum number of Lanczos iterations.
        seed: seed of the starting vector.
        given: see :class:`~sharpness.probes.shared.probe.Resumed`.

    Returns:
        Shares, slopes and changes in accuracy for every direction and class, with standard errors over images.
        For a mapping, a :class:`~sharpness.Comparison` of such results by label.

    Raises:
        UserError: settings that :func:`~sharpness.eigenvalues` refuses, or a non-positive distance.

    The loss of class 0 is :math:`3 w_1^2` and that of class 1 is :math:`w_2^2`, so each class owns one direction:

    >>> import torch
    >>> from sharpness import Objective
    >>> x, y = torch.tensor([[3**0.5, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> objective = Objective(model, (x, y), loss=lambda u, t: u[:, 0] ** 2, num_classes=2)
    >>> owners(objective, k=2).shares.round(4).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    require_distance(epsilon)
    found = eigenvalues(
        objective, k, which, tol=tol, max_iterations=max_iterations, seed=seed, keep_vectors=True,
        coordinates=coordinates, resume=given["resume"],
    )  # fmt: skip
    assert isinstance(found, EigenvalueResult)
    return found.owners(epsilon)
