r"""Logit adjustment (Menon et al., ICLR 2021), in the loss or after training."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from sharpness.data import LongTail
from sharpness.errors import UserError
from sharpness.methods.cross_entropy import CrossEntropy
from sharpness.methods.recipe import Recipe, Stage
from sharpness.methods.schedules import Constant, MultiStep
from sharpness.models import Classifier, LinearHead
from sharpness.steps import Context, Loss


def log_priors(train_counts: Tensor) -> Tensor:
    """Return ``log(n_c / N)``, shape (C,), float64."""
    return (train_counts.double() / train_counts.sum()).log()


@dataclass(frozen=True)
class LogitAdjustment(Loss):
    r"""Cross-entropy of :math:`u + \tau \log \pi`, :math:`\pi_c = n_c / N`; tau = 1 is Balanced Softmax.

    The network returns u; tests use u without the adjustment.
    """

    tau: float = 1.0
    capturable = True

    def terms(self, logits: Tensor, labels: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        shifted = logits + self.tau * log_priors(context.train_counts).to(logits)
        losses = F.cross_entropy(shifted, labels, reduction="none")
        return losses, torch.ones_like(losses)


@dataclass(frozen=True)
class SubtractPriors:
    r"""Fold :math:`-\tau \log \pi` into the bias of a linear head: the network then returns adjusted logits."""

    tau: float = 1.0

    def __call__(self, network: Classifier, context: Context) -> None:
        head = network.head
        if not isinstance(head, LinearHead):
            raise ValueError(f"a {type(head).__name__} has no bias to adjust")
        with torch.no_grad():
            head.bias.sub_(self.tau * log_priors(context.train_counts).to(head.bias))


#: Epochs, warm-up, and epochs of the drops to x0.1, x0.01 and x0.001, by number of classes, as released for
#: imbalance 100.
PUBLISHED = {10: (1241, 20, (604, 926, 1128)), 100: (1419, 22, (691, 1059, 1290))}


def recipe(longtail: LongTail, tau: float = 1.0, posthoc: bool = False) -> Recipe:
    r"""The released recipe for CIFAR: 1241 epochs (1419 for CIFAR-100), Nesterov momentum, three drops by ten.

    Both variants return logits whose softmax, for tau = 1, is the posterior for classes of equal size. Probes use the
    cross-entropy of these logits. ``loss="training"`` adds :math:`\tau \log \pi` to them; with ``posthoc`` this is
    exactly the cross-entropy that the network was trained with.

    Args:
        tau: strength of the adjustment, at least 0; 1 in the paper.
        posthoc: train with plain cross-entropy, and subtract :math:`\tau \log \pi` from the logits afterwards.
    """
    if not (math.isfinite(tau) and tau >= 0):
        raise UserError(f"tau={tau}: give a finite number, at least 0")
    of, warmup, milestones = PUBLISHED[10 if longtail.num_classes < 50 else 100]
    schedule = MultiStep(milestones, (1e-1, 1e-2, 1e-3), warmup=warmup, of=of)
    loss = LogitAdjustment(tau)
    first = Stage("logit adjustment", of, loss, schedule, nesterov=True)
    adjusted = Stage("post-hoc adjustment", 0, loss, Constant(), enter=(SubtractPriors(tau),))
    return Recipe(
        method="logit-adjustment",
        paper="Menon et al., Long-Tail Learning via Logit Adjustment, ICLR 2021",
        stages=(replace(first, name="cross-entropy", loss=CrossEntropy()), adjusted) if posthoc else (first,),
        notes=(
            "weight decay 2e-4 is the released penalty 1e-4 |w|^2; it acts on BatchNorm as well, unlike there",
            "the released network is a bottleneck ResNet; here it is the data set's usual one",
            "images are cropped and normalised as for the other methods; in the released code crops come from "
            "2 pixels of padding a side, added after x / 255 - 0.5, with no normalisation by channel",
            "incomplete batches are trained on and the warm-up rises once an epoch; in the released code they are "
            "dropped and it rises at every step",
        ),
    )
