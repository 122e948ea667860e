"""Training losses of checkpoints, as deterministic losses per sample for probes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sharpness.data import LongTail
from sharpness.errors import UserError
from sharpness.steps import Context, Loss


class TrainingLoss:
    """The loss of a recipe's last stage at its last epoch: margins and class weights on, random terms at their mean.

    Called with logits (n, C) and labels (n,) it returns losses (n,); ``weights`` gives the a_i of the
    objective. Mixup and adversarial features belong to the data and are left out.
    """

    def __init__(self, loss: Loss, longtail: LongTail) -> None:
        self.loss = loss.deterministic()
        self.context = Context(torch.tensor(longtail.class_counts), epoch=1, epochs=1)

    @property
    def __name__(self) -> str:
        return f"training loss {self.loss!r}"

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.loss.terms(logits.double(), labels, self.context)[0]

    def weights(self, labels: Tensor) -> Tensor:
        """Weights (n,) of the samples."""
        logits = torch.zeros(len(labels), len(self.context.class_counts))
        return self.loss.terms(logits, labels, self.context)[1]


def training_loss(manifest: Mapping[str, Any]) -> TrainingLoss:
    """Build the training loss of a checkpoint from its manifest: method, options and class counts.

    Raises:
        UserError: the manifest lacks one of them, or an option is unknown to the method.
    """
    from sharpness.methods import build_recipe

    if missing := [name for name in ("longtail", "method", "options") if name not in manifest]:
        raise UserError(
            f"the checkpoint does not record its {missing[0]}, which its training loss depends on: loss='ce'"
        )
    longtail = LongTail.from_dict(manifest["longtail"])
    recipe = build_recipe(manifest["method"], longtail, **manifest["options"])
    return TrainingLoss(recipe.stages[-1].loss, longtail)
