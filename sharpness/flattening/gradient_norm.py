r"""Penalising the norm of the gradient (Zhao, Zhang and Hu, ICML 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from sharpness.errors import UserError
from sharpness.flattening.passes import Passes, ascent, positive_radius
from sharpness.steps import Batch, Context, Loss, Shards


@dataclass(frozen=True)
class GradientNormPenalty:
    r"""The gradient of :math:`L + \lambda \|\nabla L\|`, with the Hessian in it as a finite difference.

    .. math:: \nabla \big(L + \lambda \|\nabla L\|\big) = g + \lambda H \tfrac{g}{\|g\|}
              \approx (1 - \alpha)\, g + \alpha\, \nabla L\big(w + r \tfrac{g}{\|g\|}\big), \qquad
              g = \nabla L(w), \; \alpha = \lambda / r

    .. code-block:: text

        g = gradient of L at w
        h = gradient of L at w + r * g / (|g| + 1e-12)
        w steps with (1 - alpha) * g + alpha * h

    alpha = 0 is plain SGD and alpha = 1 is SAM with radius r. A step costs two gradients. This is the formula of the
    paper; with one flag of the authors' code the first gradient of the sum is normalised.

    Args:
        r: distance of the finite difference; 0.1 for CIFAR, 0.05 for ImageNet.
        alpha: share of the gradient at the perturbed point; lambda = alpha * r.
    """

    paper: ClassVar[str] = (
        "Zhao, Zhang and Hu, Penalizing Gradient Norm for Efficiently Improving Generalization in Deep Learning, "
        "ICML 2022"
    )
    deviations: ClassVar[tuple[str, ...]] = (
        "GP mixes the gradients as its paper does; with one flag of the released code the first is normalised",
    )

    sharded: ClassVar[bool] = True

    r: float = 0.1
    alpha: float = 0.8

    def __post_init__(self) -> None:
        positive_radius("GP", "r", self.r, usual=0.1)
        if not 0 <= self.alpha <= 1:
            raise UserError(f"alpha={self.alpha}: GP mixes two gradients, give a share from 0 to 1, usually 0.8")

    def backward(self, model: nn.Module, batch: Batch | Shards, loss: Loss, context: Context) -> Tensor:
        passes = Passes(model, context)
        value, gradient = passes.start(loss, batch)
        passes.descend(loss, batch, ascent(gradient, self.r), scale=self.alpha)
        passes.add({name: (1 - self.alpha) * g for name, g in gradient.items()})
        return value
