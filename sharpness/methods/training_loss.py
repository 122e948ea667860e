"""The loss a checkpoint was trained with, as a deterministic loss per sample that a probe can use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sharpness.data import LongTail
from sharpness.errors import UserError
from sharpness.methods import METHODS, recipe_of
from sharpness.steps import Context, Loss


class TrainingLoss:
    """The loss of a recipe's last stage at its last epoch: margins and class weights on, random terms at their mean.

    Called with logits (n, C) and labels (n,) it returns losses (n,); :meth:`weights` gives the a_i of the
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
    """From a checkpoint's manifest: its method's recipe with the options it was trained with.

    Raises:
        UserError: it does not record them, or they are none of the method's, or the method is not known here.
    """
    if missing := [name for name in ("longtail", "method", "options") if name not in manifest]:
        raise UserError(
            f"the checkpoint does not record its {missing[0]}, which its training loss depends on: loss='ce'"
        )
    longtail = LongTail.from_dict(manifest["longtail"])
    # A file must not choose what is imported: its method counts where it is known here, or the user has named it.
    name = METHODS.recorded(manifest["method"], manifest.get("method_source"), "the checkpoint")
    recipe = recipe_of(METHODS[name], name, longtail, **manifest["options"])
    return TrainingLoss(recipe.stages[-1].loss, longtail)
