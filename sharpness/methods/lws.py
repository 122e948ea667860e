r"""Learnable weight scaling (LWS; Kang et al., Decoupling Representation and Classifier, ICLR 2020)."""

from __future__ import annotations

from sharpness.data import LongTail
from sharpness.methods.changes import AddWeightScaling
from sharpness.methods.crt import decoupled
from sharpness.methods.recipe import Recipe


def recipe(longtail: LongTail, shift_batchnorm: bool = False) -> Recipe:
    """Cross-entropy, then a stage that only learns one factor for the logit of each class, ``u' = a * (W z + b)``.

    Stage 2 samples classes equally and has 5/90 of the epochs of stage 1; its cosine starts at the same learning rate,
    as published.

    Args:
        shift_batchnorm: let BatchNorm follow the balanced sampler in stage 2, as in the released code, which only
            freezes the parameters of the backbone.
    """
    return decoupled("lws", "learnable weight scaling", 5, "head.factor", AddWeightScaling(), shift_batchnorm)
