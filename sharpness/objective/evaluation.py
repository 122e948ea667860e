"""Evaluation of an objective at many points of parameter space."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sharpness.engine.class_sums import ClassSums, WeightedBatch, class_sums
from sharpness.engine.devices import full_precision
from sharpness.engine.evaluation import Evaluation
from sharpness.engine.memory import even_batch, memory_budget
from sharpness.engine.modules import buffers_kept, require_eval
from sharpness.engine.program import Untraceable
from sharpness.errors import UserError

if TYPE_CHECKING:
    from sharpness.objective.values import Values

logger = logging.getLogger("sharpness")


def evaluation(objective: Values, precision: str | None = None) -> Callable[[Tensor | None], ClassSums]:
    """Make the function of :meth:`Objective.evaluation`: from a trace of the model if there is one, else in place.

    Displacements are in the objective's coordinates.

    Raises:
        UserError: another precision.
    """
    require_eval(objective.model)
    if precision not in (None, objective.precision) and (precision, objective.precision) != ("bfloat16", "float32"):
        raise UserError(f"precision={precision!r}, but the model is in {objective.precision}: convert the model")
    dtype = torch.bfloat16 if precision == "bfloat16" else objective.dtype
    largest = 2 * objective._largest_batch * objective.dtype.itemsize // dtype.itemsize  # no graph, and smaller dtypes
    size = objective.batch_size or even_batch(len(objective.y), largest, objective.device)
    batches = list(zip(objective.x.split(size), objective.y.split(size), objective.weights.split(size), strict=True))
    if objective.batchnorm == "eval":
        try:
            budget = memory_budget(objective.device, objective.memory)
            with buffers_kept(objective.model):
                traced = Evaluation(
                    objective._outputs, objective.parameters, objective._scoring, batches, dtype, budget
                )
            # A trace moves weights. In place, `Values.at` converts the coordinates itself.
            return traced if objective._scales is None else lambda u: traced(None if u is None else objective._moved(u))
        except Untraceable as error:
            logger.info("evaluation: the model itself, point by point (%s)", error)
    return _in_place(objective, batches, dtype)


def _in_place(
    objective: Values, batches: list[WeightedBatch], dtype: torch.dtype
) -> Callable[[Tensor | None], ClassSums]:
    """Move the model itself to every point; bfloat16 is computed with autocast, whereas a trace converts itself."""
    layout = torch.channels_last if _takes_channels_last(objective) else torch.preserve_format

    def forward(x: Tensor) -> Tensor:
        with torch.autocast(objective.device.type, torch.bfloat16, enabled=dtype is torch.bfloat16):
            return objective._forward(x.to(memory_format=layout)).to(objective.dtype)

    @full_precision()
    def evaluate(displacement: Tensor | None) -> ClassSums:
        if displacement is None:
            displacement = torch.zeros(objective.num_parameters)
        moved = ((x.to(objective.device), y.to(objective.device), a.to(objective.device)) for x, y, a in batches)
        with objective.at(displacement):
            return class_sums(forward, moved, objective._scoring)

    return evaluate


@torch.no_grad()
def _takes_channels_last(objective: Values) -> bool:
    """True if the model runs on channels-last inputs; a ``view`` inside it may not."""
    x = objective._first(2)
    try:
        return x.ndim == 4 and objective._forward(x.to(memory_format=torch.channels_last)) is not None
    except (RuntimeError, UserError):  # a UserError if the view is in output=
        return False
