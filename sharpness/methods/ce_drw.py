r"""Cross-entropy with class weights, deferred or from the start (baselines of Cao et al., NeurIPS 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from sharpness.data import LongTail
from sharpness.errors import UserError
from sharpness.methods.cross_entropy import LDAM_SCHEDULE
from sharpness.methods.ldam import deferred_weights
from sharpness.methods.recipe import Recipe, Stage
from sharpness.steps import Context, Loss


@dataclass(frozen=True)
class ReweightedCrossEntropy(Loss):
    r"""``-log softmax(u)_y`` with the weight of class y, :math:`\sum_i w_{y_i} \ell_i / \sum_i w_{y_i}`.

    .. math:: w_c \propto \frac{1 - \beta}{1 - \beta^{n_c}}, \qquad \sum_c w_c = C

    after the share ``reweight_from`` of the epochs, and 1 before (Cui et al., CVPR 2019; beta = 0 gives 1 always).
    """

    reweight_from: float = 0.8
    beta: float = 0.9999
    capturable = True

    def terms(self, logits: Tensor, labels: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        losses = F.cross_entropy(logits, labels, reduction="none")
        return losses, deferred_weights(labels, context, self.reweight_from, self.beta).to(losses)


def recipe(longtail: LongTail, deferred: bool = True, beta: float = 0.9999) -> Recipe:
    """CE-DRW: the baseline, re-weighted from epoch 161 of 200 on.

    Args:
        deferred: False re-weights the classes from the first epoch on ("Reweight" in the same paper).
        beta: parameter of the effective number, at least 0 and below 1.
    """
    if not (math.isfinite(beta) and 0 <= beta < 1):
        raise UserError(f"beta={beta}: give a number from 0 to below 1, usually 0.9999")
    loss = ReweightedCrossEntropy(0.8 if deferred else 0.0, beta)
    name = "cross-entropy, then re-weighted" if deferred else "re-weighted cross-entropy"
    return Recipe(
        method="ce-drw",
        paper="Cao et al., Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss, NeurIPS 2019",
        stages=(Stage(name, 200, loss, LDAM_SCHEDULE),),
    )
