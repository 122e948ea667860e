"""Empirical risk minimisation with cross-entropy: the baseline of the field."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sharpness.data import LongTail
from sharpness.methods.recipe import Recipe, Stage
from sharpness.methods.schedules import MultiStep
from sharpness.steps import Context, Loss

#: The learning-rate drops of the LDAM code, to x0.01 and x0.0001, although its paper says 0.1.
LDAM_SCHEDULE = MultiStep(milestones=(160, 180), factors=(1e-2, 1e-4))
#: The drops of MiSLAS, GCL and CC-SAM.
TENTHS = MultiStep(milestones=(160, 180), factors=(1e-1, 1e-2))
#: A note for methods whose released code initialises its classifier like ``nn.Linear``.
LINEAR_HEAD = (
    "the classifier's weights start normal with variance 2 / features (He et al.), in the released code uniform with "
    "variance 1 / (3 features)"
)


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """``-log softmax(u)_y``, every sample alike."""

    capturable = True

    def terms(self, logits: Tensor, labels: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        losses = F.cross_entropy(logits, labels, reduction="none")
        return losses, torch.ones_like(losses)


#: The baseline of Cao et al. 2019, which is also the first stage of methods that re-balance its classifier.
BASELINE = Stage("cross-entropy", 200, CrossEntropy(), LDAM_SCHEDULE)


def recipe(longtail: LongTail) -> Recipe:
    """200 epochs of SGD on cross-entropy, batch 128, weight decay 2e-4 (the baseline of Cao et al. 2019)."""
    return Recipe(
        method="ce",
        paper="cross-entropy baseline of Cao et al., NeurIPS 2019",
        stages=(BASELINE,),
    )
