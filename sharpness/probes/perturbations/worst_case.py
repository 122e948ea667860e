r"""The largest rise of the loss within a ball around the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

import numpy as np

from sharpness.errors import UserError, choose, require_whole
from sharpness.objective import Objective
from sharpness.probes.perturbations.class_ascents import Ascents
from sharpness.probes.perturbations.projected_ascent import NORMS, Ball
from sharpness.probes.shared.column import Column, sample_freedom, table_of
from sharpness.probes.shared.comparison import common_fields
from sharpness.probes.shared.probe import Given, comparable
from sharpness.probes.shared.work import Work
from sharpness.results import MeasureResult
from sharpness.statistics.estimate import interval

NAMES = ("loss", "worst_loss", "worst_rise", "worst_accuracy")


@comparable
def worst_case(
    objective: Objective,
    rho: float = 0.05,
    steps: int = 1,
    norm: str = "l2",
    adaptive: bool = False,
    *,
    m: int | None = None,
    seed: int = 0,
    resume: str | Path | None = None,
    **given: Unpack[Given],
) -> MeasureResult:
    r"""Find the largest rise of the loss within a ball by projected gradient ascent, overall and per class.

    .. math:: \max_{\|u\| \le \rho} L(w + T u) - L(w)

    With one step this is the point that SAM evaluates (Foret et al., ICLR 2021): :math:`u = \rho\, T g / \|T g\|_2`,
    or :math:`\rho \operatorname{sign}(T g)` for ``"linf"``. Further steps continue the ascent from there, see
    ``projected_ascent.py``. If no better point is found, the rise is 0, since the centre is in the ball. The results
    are lower bounds of the maxima. At the minimum of a quadratic the maximum is
    :math:`\rho^2 \lambda_\max / 2` in l2, and of a linear loss it is :math:`\rho \|g\|_2`, or :math:`\rho \|g\|_1` for
    ``"linf"``.

    Each class ascends on L_c alone. With one step, all classes together take one pass over the data for gradients and
    one for losses; the overall gradient is their weighted sum, and the overall loss takes one more pass.

    Args:
        objective: an objective, a model with ``data`` or a checkpoint; or ``{label: one of these}``, to compare them.
        rho: radius of the ball.
        steps: maximum number of evaluations of the loss, each with a gradient.
        norm: norm of u, ``"l2"`` or ``"linf"``.
        adaptive: :math:`T = \operatorname{diag}(|w|)` (Kwon et al., ICML 2021) over all parameters in scope; the
            identity otherwise.
        m: m-sharpness (Foret et al.; Andriushchenko and Flammarion, ICML 2022): the samples are split at random into
            batches of m (the last one smaller if m does not divide their number). Each ascends on its own loss, and
            losses are averaged over batches by weight. For a class, batches contain only its samples; for all samples,
            they mix classes. The maximum over a single batch is a lower bound of that with m = 1. None means a single
            batch.
        seed: seed of the batches, and of the starting point if the gradient is zero and there are several steps.
        resume: folder for unfinished work. The same call resumes from it and gives bitwise identical results.
        given: ``data`` and ``options``: see :class:`~sharpness.probes.shared.probe.Given`.

    Returns:
        A table of ``loss``, ``worst_loss``, ``worst_rise`` and ``worst_accuracy`` (the accuracy at the worst point, NaN
        if targets are not labels). The standard error of ``worst_rise`` is over samples, with the worst point fixed.
        The number of gradients is in the provenance.

    Raises:
        UserError: a non-positive radius, number of steps or m, an unknown norm, or a gradient that is not finite.

    >>> import torch
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> data = torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([0, 0])
    >>> objective = Objective(model, data, loss=lambda outputs, targets: outputs[:, 0])
    >>> [round(worst_case(objective, rho=2.0, m=m).of("worst_rise"), 4) for m in (2, 1)]
    [5.0, 7.0]
    """
    choose("norm", norm, NORMS)
    if not (np.isfinite(rho) and rho > 0):
        raise UserError(f"rho={rho}: give a positive radius, such as 0.05")
    require_whole("steps", steps, least=1)
    require_whole("seed", seed)
    if m is not None:
        require_whole("m", m, least=1)
    settings = {"rho": rho, "steps": steps, "norm": norm, "adaptive": adaptive, "m": m, "seed": seed}
    fields = common_fields(objective, probe="worst_case", **settings)
    ascents = Ascents(objective, objective.check(), m, seed)
    ball = Ball(rho, norm, objective.flat_weights.abs().to(objective.dtype) if adaptive else None)
    work = Work(resume, {**fields["provenance"], "value": f"{ascents.base.mean:.4g}"})
    ascents.run(ball, steps, work)
    *values, error = ascents.table()
    fields["provenance"]["gradients"] = ascents.gradients
    # By definition, the worst rise is at least 0.
    errors = {"worst_rise": error}
    ends = {"worst_rise": interval(values[2], error, sample_freedom(objective), keeps_sign=True)}
    none = np.full((3, len(error)), np.nan)
    columns = {
        name: Column.of_images(objective, value, errors.get(name, none[0]), ends.get(name, none[1:]))
        for name, value in zip(NAMES, values, strict=True)
    }
    return table_of(columns, np.full(objective.num_classes, -1), **fields)
