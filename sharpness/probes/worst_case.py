r"""The largest rise of the loss within a ball around the weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sharpness.errors import UserError, choose
from sharpness.objective import Objective
from sharpness.probes.comparison import common_fields, comparable
from sharpness.progress import progress
from sharpness.results import MeasureResult

NORMS = ("l2", "linf")


@comparable
def worst_case(
    objective: Objective, rho: float = 0.05, steps: int = 1, norm: str = "l2", adaptive: bool = False
) -> MeasureResult:
    r""":math:`\max_{\|u\| \le \rho} L_c(w + T u) - L_c(w)` by projected gradient ascent, overall and per class.

    T is the identity, or :math:`\operatorname{diag}(|w|)` if ``adaptive`` (Kwon et al., ICML 2021). With one step
    this is the point that SAM evaluates, :math:`u = \rho\, T g / \|T g\|_2`, or :math:`\rho \operatorname{sign}(T g)`
    for ``"linf"``. With more, each step has length :math:`2.5 \rho / \text{steps}` (the first :math:`\rho`) and is
    projected onto the ball, and the largest loss on the way counts, so that the result is a lower bound of the
    maximum. At a minimum of a quadratic the maximum is :math:`\rho^2 \lambda_\max / 2`.

    Returns:
        A table of ``loss``, ``worst_loss`` and ``worst_rise``.
    """
    choose("norm", norm, NORMS)
    if not (np.isfinite(rho) and rho > 0) or steps < 1:
        raise UserError(f"rho={rho}, steps={steps}: give a positive radius and at least one step")
    objective.check()
    present = [int(c) for c in np.flatnonzero(objective.class_counts)]
    table = np.full((3, objective.num_classes), np.nan)
    with progress(len(present) + 1, "worst case", "ascents") as bar:
        overall = _ascend(objective, rho, steps, norm, adaptive)
        bar.update()
        for c in present:
            table[:, c] = _ascend(objective.restrict(c), rho, steps, norm, adaptive)
            bar.update()
    return MeasureResult(
        names=("loss", "worst_loss", "worst_rise"),
        overall=overall,
        values=table,
        errors=np.full_like(table, np.nan),
        overall_errors=np.full(3, np.nan),
        train_counts=np.full(objective.num_classes, -1),
        **common_fields(objective, probe="worst_case", rho=rho, steps=steps, norm=norm, adaptive=adaptive),
    )


def _ascend(objective: Objective, rho: float, steps: int, norm: str, adaptive: bool) -> np.ndarray:
    """Loss, worst loss and rise (3,)."""
    base = objective.loss()
    weights = torch.cat([p.detach().reshape(-1) for p in objective.parameters])
    scale = weights.abs() if adaptive else torch.ones_like(weights)
    u, worst = torch.zeros_like(weights), base
    for i in range(steps):
        with objective.at(scale * u):
            gradient = scale * objective.gradient()
        length = rho if i == 0 else 2.5 * rho / steps
        u = _project(u + length * _steepest(gradient, norm), rho, norm)
        with objective.at(scale * u):
            worst = max(worst, objective.loss())
    return np.array([base, worst, worst - base])


def _steepest(gradient: Tensor, norm: str) -> Tensor:
    """The unit step of the norm that raises the loss most, to first order."""
    return gradient.sign() if norm == "linf" else gradient / gradient.norm().clamp_min(1e-12)


def _project(u: Tensor, rho: float, norm: str) -> Tensor:
    if norm == "linf":
        return u.clamp(-rho, rho)
    return u * (rho / u.norm().clamp_min(1e-12)).clamp_max(1.0)
