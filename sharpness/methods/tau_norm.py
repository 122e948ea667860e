r"""tau-normalised classifier (Kang et al., Decoupling Representation and Classifier, ICLR 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from sharpness.data import LongTail
from sharpness.errors import UserError
from sharpness.methods.cross_entropy import BASELINE, CrossEntropy
from sharpness.methods.crt import FIRST_STAGE, PAPER
from sharpness.methods.recipe import Recipe, Stage
from sharpness.methods.schedules import Constant
from sharpness.models import Classifier, LinearHead
from sharpness.steps import Context

TINY = 1e-12


@dataclass(frozen=True)
class NormalizeRows:
    r""":math:`w_c \leftarrow w_c / \|w_c\|_2^\tau` for every row of a linear head, whose bias becomes 0.

    With tau = 0 only the bias is removed; with tau = 1 the rows have length 1.
    """

    tau: float = 1.0

    def __call__(self, network: Classifier, context: Context) -> None:
        head = network.head
        if not isinstance(head, LinearHead):
            raise ValueError(f"a {type(head).__name__} has no rows to normalise")
        if is_parametrized(head, "weight"):
            remove_parametrizations(head, "weight")  # the weight is no longer trained, so it needs no constraint
        with torch.no_grad():
            head.weight /= torch.linalg.vector_norm(head.weight, dim=1, keepdim=True).clamp_min(TINY) ** self.tau
            head.bias.zero_()


def recipe(longtail: LongTail, tau: float = 1.0) -> Recipe:
    """Cross-entropy, then normalisation of the classifier's rows without further training.

    Logits are those of the normalised rows, without a temperature. With tau = 1 they are smaller than the trained ones
    by about the former length of the rows, which also reduces the curvature of their cross-entropy.

    Args:
        tau: at least 0. Published values, between 0 and 2, are chosen on validation images. The data sets of this
            package have none, so the default is full normalisation.
    """
    if not (math.isfinite(tau) and tau >= 0):
        raise UserError(f"tau={tau}: give a finite number, at least 0")
    normalized = Stage("tau-normalisation", 0, CrossEntropy(), Constant(), enter=(NormalizeRows(tau),))
    return Recipe(
        method="tau-norm",
        paper=PAPER,
        stages=(BASELINE, normalized),
        notes=(f"tau = {tau:g} is not chosen on validation images",),
        cifar_notes=(FIRST_STAGE,),
    )
