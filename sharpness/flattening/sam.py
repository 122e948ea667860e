r"""Sharpness-aware minimisation (Foret et al., ICLR 2021)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from sharpness.errors import UserError
from sharpness.flattening.step import (
    Batch,
    Context,
    Loss,
    PlainStep,
    frozen_running_statistics,
    joint_norm,
    perturbed,
)


@dataclass(frozen=True)
class SAM:
    r"""The gradient at the worst point nearby, to first order.

    .. code-block:: text

        g   = gradient of L at w
        eps = rho * g / (|g| + 1e-12)          # one norm over all trainable parameters
        G   = gradient of L at w + eps
        w steps with G

    BatchNorm's running statistics move in the first pass only; weight decay acts in the optimiser, not in eps.
    Both passes see the same random numbers of the loss. A step costs two gradients.
    """

    rho: float = 0.05

    def __post_init__(self) -> None:
        if not self.rho > 0:
            raise UserError(f"rho={self.rho}: SAM needs a positive radius, usually 0.05")

    def backward(self, model: nn.Module, batch: Batch, loss: Loss, context: Context) -> Tensor:
        state = context.generator.get_state()
        value = PlainStep().backward(model, batch, loss, context)
        parameters = [p for p in model.parameters() if p.grad is not None]
        gradient = [p.grad for p in parameters if p.grad is not None]
        norm = joint_norm(gradient) + 1e-12
        for p in parameters:
            p.grad = None
        context.generator.set_state(state)
        with (
            perturbed(parameters, [g * (self.rho / norm) for g in gradient]),
            frozen_running_statistics(model),
        ):
            PlainStep().backward(model, batch, loss, context)
        return value
