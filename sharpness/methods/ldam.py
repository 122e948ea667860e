r"""Label-distribution-aware margins with deferred re-weighting (Cao et al., NeurIPS 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sharpness.data import LongTail
from sharpness.methods.cross_entropy import LDAM_SCHEDULE
from sharpness.methods.recipe import Recipe, Stage
from sharpness.steps import Context, Loss


def margins(train_counts: Tensor, max_margin: float = 0.5) -> Tensor:
    r"""Return ``Delta_c = M n_c^(-1/4) / max_j n_j^(-1/4)``, shape (C,); the rarest class has margin M.

    >>> margins(torch.tensor([16.0, 1.0])).tolist()
    [0.25, 0.5]
    """
    raw = train_counts.double() ** -0.25
    return max_margin * raw / raw.max()


def effective_number_weights(train_counts: Tensor, beta: float = 0.9999) -> Tensor:
    r"""Return ``(1 - beta) / (1 - beta^n_c)``, scaled to sum to C, shape (C,) (Cui et al., CVPR 2019)."""
    weights = (1 - beta) / (1 - beta ** train_counts.double())
    return len(weights) * weights / weights.sum()


def deferred_weights(labels: Tensor, context: Context, reweight_from: float, beta: float) -> Tensor:
    """Return weights (n,): 1, and ``effective_number_weights`` after the share ``reweight_from`` of the epochs."""
    if context.epoch <= reweight_from * context.epochs:
        return torch.ones(len(labels), dtype=torch.float64, device=labels.device)
    return effective_number_weights(context.train_counts, beta).to(labels.device)[labels]


@dataclass(frozen=True)
class LDAM(Loss):
    r"""Cross-entropy of ``s (cos - Delta_y 1_y)``, ``Delta_c = M (n_min / n_c)^(1/4)``, with deferred re-weighting.

    The logits are those of a cosine head, ``s cos``, so the margin is ``s Delta_y``. Samples have weight 1 up to the
    fraction ``reweight_from`` of the epochs, and the ``effective_number_weights`` of their classes afterwards.
    The loss is normalised by the sum of the weights in the batch, like torch's weighted cross-entropy.
    """

    scale: float = 30.0
    max_margin: float = 0.5
    reweight_from: float = 0.8
    beta: float = 0.9999
    capturable = True

    def terms(self, logits: Tensor, labels: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        shift = self.scale * margins(context.train_counts, self.max_margin).to(logits)[labels]
        shifted = logits - shift[:, None] * F.one_hot(labels, logits.shape[1])
        losses = F.cross_entropy(shifted, labels, reduction="none")
        return losses, deferred_weights(labels, context, self.reweight_from, self.beta).to(losses)


def recipe(longtail: LongTail, max_margin: float = 0.5, scale: float = 30.0) -> Recipe:
    """LDAM-DRW as published: 200 epochs, re-weighting from epoch 161 on, drops of x0.01 at 160 and 180."""
    loss = LDAM(scale=scale, max_margin=max_margin)
    return Recipe(
        method="ldam-drw",
        paper="Cao et al., Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss, NeurIPS 2019",
        head="cosine",
        scale=scale,
        stages=(Stage("LDAM, then re-weighted", 200, loss, LDAM_SCHEDULE),),
    )
