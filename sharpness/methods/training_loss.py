"""Training losses of checkpoints as deterministic per-sample losses, for probes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sharpness.data import LongTail
from sharpness.methods import METHODS, recipe_of
from sharpness.steps import Context, Loss


class TrainingLoss:
    """The loss of a recipe's last stage at its last epoch, with its margins and class weights.

    A call with logits (n, C) and labels (n,) returns losses (n,); ``weights`` returns the a_i of the objective. Random
    terms are replaced by their mean. Mixup and adversarial features belong to the data and are left out.
    """

    def __init__(self, loss: Loss, longtail: LongTail) -> None:
        self.loss = loss.deterministic()
        self.context = Context(torch.tensor(longtail.train_counts), epoch=1, epochs=1)

    @property
    def __name__(self) -> str:
        return f"training loss {self.loss!r}"

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.loss.terms(logits.double(), labels, self.context)[0]

    def weights(self, labels: Tensor) -> Tensor:
        """Return the weights (n,) of the samples."""
        logits = torch.zeros(len(labels), len(self.context.train_counts))
        return self.loss.terms(logits, labels, self.context)[1]


def training_loss(method: str, longtail: LongTail, options: Mapping[str, Any]) -> TrainingLoss:
    """Build the training loss of a registered method with the options that a network was trained with.

    Raises:
        UserError: an option that is unknown to the method.
    """
    return TrainingLoss(recipe_of(METHODS[method], method, longtail, **options).stages[-1].loss, longtail)
