"""Owners of sharp directions: eigenvectors of the whole loss, and the classes' shares of them."""

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

    Of every eigenvector :math:`v_j` of the Hessian of the whole loss: the share of each class in its eigenvalue,
    :math:`(A_c / A)\, v_j' H_c v_j / \lambda_j` with :math:`A_c` the weight of class c and A their sum; the slope of
    its mean loss, :math:`g_c' v_j`; and the change of its accuracy at :math:`\pm\epsilon_j` along :math:`v_j`. It takes
    the products of :func:`~sharpness.eigenvalues`, and for each direction one second derivative of every sample and two
    forward passes. It tells what bends the loss at w, not what would happen at a distance.

    Args:
        objective: an objective, a model with ``data`` or a checkpoint; or ``{label: one of these}``, to compare them.
        k: directions at each end of the spectrum.
        which: ``"LA"``, the largest eigenvalues, ``"SA"``, the smallest, or ``"both"``.
        epsilon: distance along unit vectors; unless given, of every direction that at which its quadratic has changed
            the loss by 0.1, :math:`\sqrt{0.2 / |\lambda_j|}`.
        coordinates: ``"plain"`` or ``"filter"``, see :func:`~sharpness.eigenvalues`; distances are in these, too.
        tol: residual of the eigenvalues.
        max_iterations: Lanczos iterations at most.
        seed: of the start vector.
        given: see :class:`~sharpness.probes.shared.probe.Resumed`.

    Returns:
        Shares, slopes and changes of accuracy of every direction and class, with standard errors over images.
        Of a mapping a :class:`~sharpness.Comparison` of such results by label.

    Raises:
        UserError: settings that :func:`~sharpness.eigenvalues` refuses, or a distance that is not positive.

    The loss of class 0 is :math:`3 w_1^2`, that of class 1 :math:`w_2^2`, so that each owns one direction:

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
