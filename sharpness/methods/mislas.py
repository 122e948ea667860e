r"""MiSLAS: mixup, then label-aware smoothing with learnable scaling and shifted BatchNorm (Zhong et al., CVPR 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sharpness.data import LongTail
from sharpness.methods.changes import AddWeightScaling
from sharpness.methods.cross_entropy import TENTHS, CrossEntropy
from sharpness.methods.recipe import Recipe, Stage
from sharpness.methods.schedules import Cosine
from sharpness.steps import Context, Loss


def smoothing_factors(train_counts: Tensor, head: float, tail: float) -> Tensor:
    r"""Return the "concave" factors of the paper, shape (C,): ``head`` for the largest class, ``tail`` for the rarest.

    .. math:: \epsilon_c = \epsilon_K + (\epsilon_1 - \epsilon_K)
              \sin\frac{\pi (n_c - n_K)}{2 (n_1 - n_K)}, \qquad n_1 = \max n, \; n_K = \min n

    If all classes have the same size, all factors are ``head``.
    """
    counts = train_counts.double()
    spread = counts.max() - counts.min()
    # torch.where instead of a branch on a value, which would prevent capture as a CUDA graph.
    position = torch.where(spread > 0, (counts - counts.min()) / spread.clamp_min(1), 1.0)
    return tail + (head - tail) * torch.sin(math.pi / 2 * position)


@dataclass(frozen=True)
class LabelAwareSmoothing(Loss):
    """``(1 - e_y) (-log p_y) + e_y mean_j (-log p_j)`` with e the ``smoothing_factors``; the mean includes y."""

    head: float = 0.3
    tail: float = 0.0
    capturable = True

    def terms(self, logits: Tensor, labels: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        factor = smoothing_factors(context.train_counts, self.head, self.tail).to(logits)[labels]
        log_p = logits.log_softmax(dim=1)
        target = log_p.gather(1, labels[:, None]).squeeze(1)
        losses = -(1 - factor) * target - factor * log_p.mean(dim=1)
        return losses, torch.ones_like(losses)


#: Stage 2 by number of classes: (smallest imbalance, smoothing of head and tail, shifted BatchNorm, lr factor).
PUBLISHED = {
    10: ((100, 0.3, 0.0, False, 0.5), (50, 0.2, 0.0, False, 0.2), (0, 0.1, 0.0, False, 0.2)),
    100: ((100, 0.4, 0.1, True, 0.2), (50, 0.3, 0.0, True, 0.1), (0, 0.2, 0.0, True, 0.1)),
}


def recipe(longtail: LongTail, mixup: float = 1.0, shift_batchnorm: bool | None = None) -> Recipe:
    """Both stages as published for CIFAR.

    Stage 2 has published settings for the imbalances 100, 50 and 10. Other imbalances use those of the next lower one,
    and imbalances below 10 those of 10. Other data sets use the settings of CIFAR-10 (below 50 classes) or CIFAR-100.

    Args:
        mixup: alpha of stage 1, 0 for no mixup.
        shift_batchnorm: whether BatchNorm follows the balanced sampler in stage 2; by default as published.
    """
    rows = PUBLISHED[10 if longtail.num_classes < 50 else 100]
    _, head, tail, published_shift, lr_factor = next(r for r in rows if longtail.imbalance >= r[0])
    shift = published_shift if shift_batchnorm is None else shift_batchnorm
    return Recipe(
        method="mislas",
        paper="Zhong et al., Improving Calibration for Long-Tailed Recognition, CVPR 2021",
        stages=(
            Stage("mixup", 200, CrossEntropy(), TENTHS, mixup=mixup),
            Stage(
                "label-aware smoothing",
                10,
                LabelAwareSmoothing(head, tail),
                Cosine(),
                sampler="class_balanced:4",
                trainable="head",
                frozen_batchnorm=not shift,
                enter=(AddWeightScaling(),),
                lr_factors=(("head.head.", lr_factor),),
            ),
        ),
        notes=("an epoch of stage 2 has ceil(N / batch) steps, one fewer than in the released code",),
    )
