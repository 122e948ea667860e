"""The baseline."""

import torch
from torch.nn import functional as F

from sharpness.methods import build_recipe
from sharpness.methods.cross_entropy import CrossEntropy
from sharpness.steps import Context, PlainStep


def test_it_is_torchs_cross_entropy(logits10, counts10):
    logits, labels = logits10
    losses, weights = CrossEntropy().terms(logits, labels, Context(counts10, 1, 1))
    assert torch.equal(losses, F.cross_entropy(logits, labels, reduction="none"))
    assert torch.equal(weights, torch.ones(40, dtype=torch.float64))


def test_the_recipe_is_the_published_one(cifar):
    recipe = build_recipe("ce", cifar())
    (stage,) = recipe.stages
    assert (stage.epochs, stage.batch_size, stage.lr, stage.momentum) == (200, 128, 0.1, 0.9)
    assert (stage.weight_decay, stage.sampler, stage.mixup, stage.trainable) == (2e-4, "instance", 0, "all")
    assert (recipe.head, recipe.scale, stage.rule) == ("linear", None, PlainStep())
