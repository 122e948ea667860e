"""Two passes over the same samples, which agree unless the loss is random or depends on other samples in a batch."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch

from sharpness.engine.class_sums import SampleSums
from sharpness.engine.half_precision import ROUNDING
from sharpness.engine.neighbours import first_difference, in_eval
from sharpness.errors import UserError

if TYPE_CHECKING:
    from sharpness.objective.values import Values


def repeated_passes(objective: Values) -> SampleSums:
    """Evaluate all samples in order and in reverse order, and return the result of the first pass.

    In the second pass, every sample has other neighbours and another position in its batch.

    Args:
        objective: the objective, at its current weights.

    Raises:
        UserError: the loss is random, not finite, or depends on a sample's position; the message says where.
    """

    def statistics() -> AbstractContextManager[None]:
        """Use the BatchNorm statistics that probes use at w."""
        return objective.at(torch.zeros(objective.num_parameters)) if objective.batchnorm != "eval" else nullcontext()

    with statistics():
        first = objective.evaluate_samples()
    with statistics():
        second = objective.evaluate_samples(backwards=True)
    if not np.isfinite(first.loss).all():
        bad = int(np.flatnonzero(~np.isfinite(first.loss))[0])
        raise UserError(
            f"the loss of class {bad} is {first.loss[bad]} before anything was perturbed: check the inputs' "
            "normalisation and the weights for inf and nan"
        )
    if not np.allclose(first.loss, second.loss, rtol=1e-6, atol=1e-12):
        with statistics():
            again = objective.evaluate_samples()
        x = objective.x[:8].to(objective.device, copy=True)
        if not np.allclose(first.loss, again.loss, rtol=1e-6, atol=1e-12):
            where = first_difference(objective._outputs, x, x) or "the model or the loss"
            raise UserError(
                f"two passes over the same data gave losses {first.mean:.6g} and {again.mean:.6g}: {where} is "
                f"random, or keeps a state; {in_eval(objective._outputs)}freeze it, or seed it in every call"
            )
        # Kernels for different batch sizes round differently. This shows in sums over a class; single samples tell.
        off = np.abs(first.losses - second.losses)
        size = max(1.0, float(np.abs(first.losses).max()))
        rounding = 1e-6 if objective.dtype is torch.float64 else 1e-3
        if not off.max() <= size * (ROUNDING if objective.half_precision else rounding):
            worst = int(off.argmax())
            raise UserError(
                f"the loss of sample {worst} is {first.losses[worst]:.6g} or {second.losses[worst]:.6g}, depending "
                "on its place in its batch: let the model and the loss take each sample alone"
            )
    return first
