"""The baseline, and what other losses have in common with it."""

import math

import pytest
import torch
from torch.nn import functional as F

from sharpness.errors import UserError
from sharpness.methods import build_recipe
from sharpness.methods.ce_drw import ReweightedCrossEntropy
from sharpness.methods.cross_entropy import CrossEntropy
from sharpness.methods.focal import Focal
from sharpness.methods.gcl import GCL
from sharpness.methods.logit_adjustment import LogitAdjustment
from sharpness.methods.mislas import LabelAwareSmoothing
from sharpness.steps import Context, PlainStep


@pytest.mark.parametrize(
    ("loss", "rtol"),
    [
        (CrossEntropy(), 0),
        (Focal(0.0), 0),
        (LogitAdjustment(0.0), 0),
        (ReweightedCrossEntropy(), 0),
        (GCL(kappa=0.0), 1e-12),
        (LabelAwareSmoothing(0.0, 0.0), 1e-12),
    ],
    ids=repr,
)
def test_without_what_is_theirs_losses_are_torchs_cross_entropy(logits10, counts10, loss, rtol):
    losses, weights = loss.terms(*logits10, Context(counts10, 160, 200))
    torch.testing.assert_close(losses, F.cross_entropy(*logits10, reduction="none"), rtol=rtol, atol=0)
    assert torch.equal(weights, torch.ones(40, dtype=torch.float64))


@pytest.mark.parametrize(
    ("method", "option", "values"),
    [
        ("focal", "gamma", (0.5, -1.0, math.nan, math.inf)),
        ("ce-drw", "beta", (-0.1, 1.0, math.nan)),
        ("logit-adjustment", "tau", (-1.0, math.inf, math.nan)),
        ("tau-norm", "tau", (-0.1, math.inf, math.nan)),
    ],
)
def test_numbers_outside_their_range_are_refused(cifar, method, option, values):
    for value in values:
        with pytest.raises(UserError, match=f"{option}={value}"):
            build_recipe(method, cifar(), **{option: value})


def test_the_recipe_is_the_published_one(cifar):
    recipe = build_recipe("ce", cifar())
    (stage,) = recipe.stages
    assert (stage.epochs, stage.batch_size, stage.lr, stage.momentum) == (200, 128, 0.1, 0.9)
    assert (stage.weight_decay, stage.sampler, stage.mixup, stage.trainable) == (2e-4, "instance", 0, "all")
    assert (recipe.head, recipe.scale, stage.rule) == ("linear", None, PlainStep())
