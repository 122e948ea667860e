r"""Focal loss (Lin et al., ICCV 2017), as the baseline of Cao et al. 2019."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sharpness.data import LongTail
from sharpness.errors import UserError
from sharpness.methods.cross_entropy import LDAM_SCHEDULE
from sharpness.methods.recipe import Recipe, Stage
from sharpness.steps import Context, Loss


@dataclass(frozen=True)
class Focal(Loss):
    r""":math:`(1 - p_y)^\gamma (-\log p_y)` with p the softmax of the logits; gradients flow through both factors.

    Args:
        gamma: 0 is cross-entropy. Values between 0 and 1 are refused, because the derivative diverges at p_y = 1.
    """

    gamma: float = 1.0
    capturable = True

    def __post_init__(self) -> None:
        if self.gamma != 0 and not (math.isfinite(self.gamma) and self.gamma >= 1):
            raise UserError(f"gamma={self.gamma}: give 0 or a finite number of at least 1")

    def terms(self, logits: Tensor, labels: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        losses = F.cross_entropy(logits, labels, reduction="none")
        return (-torch.expm1(-losses)) ** self.gamma * losses, torch.ones_like(losses)


def recipe(longtail: LongTail, gamma: float = 1.0) -> Recipe:
    """The baseline with focal loss.

    Args:
        gamma: 1 in the code of Cao et al.; 2 is usual in detection.
    """
    return Recipe(
        method="focal",
        paper="Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, as in Cao et al., NeurIPS 2019",
        stages=(Stage("focal loss", 200, Focal(gamma), LDAM_SCHEDULE),),
    )
