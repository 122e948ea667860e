r"""Classifier re-training (cRT; Kang et al., Decoupling Representation and Classifier, ICLR 2020)."""

from __future__ import annotations

from sharpness.data import LongTail
from sharpness.methods.changes import Change, NewHead
from sharpness.methods.cross_entropy import BASELINE, LINEAR_HEAD, CrossEntropy
from sharpness.methods.recipe import Recipe, Stage
from sharpness.methods.schedules import Cosine

PAPER = "Kang et al., Decoupling Representation and Classifier for Long-Tailed Recognition, ICLR 2020"
#: The note on CIFAR for cRT, LWS and tau-normalisation.
FIRST_STAGE = (
    "published for large images only: 90 epochs, batch 512, learning rate 0.2; here the first stage is the "
    "cross-entropy baseline for CIFAR, so that what differs from it is what follows"
)


def decoupled(
    method: str, name: str, epochs: int, trainable: str, change: Change, shift_batchnorm: bool, *notes: str
) -> Recipe:
    """Build a recipe of cross-entropy and a second stage with a frozen backbone and class-balanced sampling.

    Args:
        method: name of the method.
        name: name of the second stage.
        epochs: epochs of the second stage as published, with 90 epochs in the first.
        trainable: part of the network that the second stage trains.
        change: change of the network before the second stage.
        shift_batchnorm: whether BatchNorm follows the batches of the second stage.
        notes: notes of the recipe.
    """
    stage = Stage(
        name,
        round(BASELINE.epochs * epochs / 90),
        CrossEntropy(),
        Cosine(),
        sampler="class_balanced:4",
        trainable=trainable,
        frozen_batchnorm=not shift_batchnorm,
        enter=(change,),
    )
    if not shift_batchnorm:
        notes += ("BatchNorm is frozen with the backbone; in the released code it follows the batches",)
    shortened = f"{epochs} of 90 published epochs are {stage.epochs} of {BASELINE.epochs}"
    return Recipe(method, PAPER, (BASELINE, stage), notes=notes, cifar_notes=(FIRST_STAGE, shortened))


def recipe(longtail: LongTail, shift_batchnorm: bool = False) -> Recipe:
    """Cross-entropy, then a new linear classifier on the frozen backbone, with class-balanced sampling.

    Stage 2 has 10/90 of the epochs of stage 1, and its cosine starts at the same learning rate, as published.

    Args:
        shift_batchnorm: let BatchNorm follow the balanced sampler in stage 2, as in the released code, which only
            freezes the parameters of the backbone.
    """
    return decoupled("crt", "classifier re-training", 10, "head", NewHead(), shift_batchnorm, LINEAR_HEAD)
