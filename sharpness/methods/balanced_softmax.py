r"""Balanced Softmax (Ren et al., NeurIPS 2020), end to end or decoupled."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sharpness.data import LongTail
from sharpness.methods.changes import NewHead
from sharpness.methods.cross_entropy import LINEAR_HEAD, CrossEntropy
from sharpness.methods.recipe import Recipe, Stage
from sharpness.methods.schedules import Cosine, WarmupCosine
from sharpness.steps import Context, Loss

BATCH_SIZE = 512
ITERATIONS = 13_000
WARMUP_ITERATIONS = 800
CLASSIFIER_ITERATIONS = 2_000


@dataclass(frozen=True)
class BalancedSoftmax(Loss):
    r"""Cross-entropy of :math:`u + \log n`, with n the training images of every class.

    .. math:: \ell = -\log \frac{n_y e^{u_y}}{\sum_c n_c e^{u_c}}

    The network returns u, whose softmax is the posterior for classes of equal size; tests use u without log n.
    """

    capturable = True

    def terms(self, logits: Tensor, labels: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        shifted = logits + context.train_counts.double().log().to(logits)
        losses = F.cross_entropy(shifted, labels, reduction="none")
        return losses, torch.ones_like(losses)


def epochs_of(iterations: int, num_samples: int) -> int:
    """Convert published steps of 512 images to epochs, at least 1.

    An epoch of a small data set counts as ten steps, because a run halves its batch size until an epoch has ten.

    >>> epochs_of(13_000, 12_406), epochs_of(2_000, 12_406), epochs_of(13_000, 380)
    (520, 80, 1300)
    """
    return max(1, round(iterations / max(10, math.ceil(num_samples / BATCH_SIZE))))


def recipe(longtail: LongTail, decoupled: bool = False) -> Recipe:
    """13 000 steps of 512 images: learning rate 0.05, warmed up to 0.1 over 800 steps, then a cosine.

    Args:
        decoupled: train the backbone with plain cross-entropy and the same schedule, then freeze it and train a new
            classifier with Balanced Softmax for 2 000 steps.
    """
    num_samples = longtail.total
    # Published in steps, not in epochs: a data set of another size is trained for the same number of steps.
    schedule = WarmupCosine(WARMUP_ITERATIONS / ITERATIONS, start=0.5)
    first = Stage(
        "cross-entropy" if decoupled else "Balanced Softmax",
        epochs_of(ITERATIONS, num_samples),
        CrossEntropy() if decoupled else BalancedSoftmax(),
        schedule,
        weight_decay=5e-4,
        batch_size=BATCH_SIZE,
    )
    second = Stage(
        "Balanced Softmax of a new classifier",
        epochs_of(CLASSIFIER_ITERATIONS, num_samples),
        BalancedSoftmax(),
        Cosine(),
        weight_decay=5e-4,
        batch_size=BATCH_SIZE,
        trainable="head",
        enter=(NewHead(),),
    )
    return Recipe(
        method="balanced-softmax",
        paper="Ren et al., Balanced Meta-Softmax for Long-Tailed Visual Recognition, NeurIPS 2020",
        stages=(first, second) if decoupled else (first,),
        notes=("without the learnt sampler (Meta Sampler) of the whole method: Balanced Softmax alone", LINEAR_HEAD),
        cifar_notes=(
            "published with AutoAugment and Cutout: accuracies compare with augmentation autoaugment-cutout alone",
            "published steps are turned into whole epochs, and the learning rate changes once an epoch",
        ),
    )
