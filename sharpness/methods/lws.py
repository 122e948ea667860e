r"""Learnable weight scaling (LWS; Kang et al., Decoupling Representation and Classifier, ICLR 2020)."""

from __future__ import annotations

from sharpness.data import LongTail
from sharpness.methods.changes import AddWeightScaling
from sharpness.methods.cross_entropy import BASELINE, CrossEntropy
from sharpness.methods.crt import FIRST_STAGE, PAPER, batchnorm_note, proportionate
from sharpness.methods.recipe import Recipe, Stage
from sharpness.methods.schedules import Cosine


def recipe(longtail: LongTail, shift_batchnorm: bool = False) -> Recipe:
    """Cross-entropy, then one factor for every class's logit, ``u' = a * (W z + b)``, and nothing else, is learnt.

    Stage 2 samples classes equally, has 5/90 of the epochs of stage 1, and starts its cosine from the same learning
    rate, as published.

    Args:
        shift_batchnorm: let BatchNorm follow the balanced sampler in stage 2, as in the released code, where only
            the parameters of the backbone are frozen.
    """
    return Recipe(
        method="lws",
        paper=PAPER,
        stages=(
            BASELINE,
            Stage(
                "learnable weight scaling",
                proportionate(5),
                CrossEntropy(),
                Cosine(),
                sampler="class_balanced:4",
                trainable="head.factor",
                frozen_batchnorm=not shift_batchnorm,
                enter=(AddWeightScaling(),),
            ),
        ),
        notes=(FIRST_STAGE, "5 of 90 published epochs are 11 of 200", *batchnorm_note(shift_batchnorm)),
    )
