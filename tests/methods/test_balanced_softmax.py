"""Balanced Softmax: its formula, what it is invariant to, and the published steps as epochs."""

import math

import pytest
import torch
from torch.nn import functional as F

from sharpness.methods import build_recipe
from sharpness.methods.balanced_softmax import BalancedSoftmax, epochs_of
from sharpness.methods.changes import NewHead
from sharpness.methods.cross_entropy import CrossEntropy
from sharpness.methods.schedules import Cosine, WarmupCosine
from sharpness.steps import Context


def test_it_is_cross_entropy_of_logits_plus_log_counts(logits10, counts10):
    logits, labels = logits10
    losses, weights = BalancedSoftmax().terms(logits, labels, Context(counts10, 1, 1))
    grown = counts10.double() * logits.exp()
    assert torch.allclose(losses, -(grown[torch.arange(40), labels] / grown.sum(1)).log(), rtol=1e-10)
    assert torch.equal(weights, torch.ones(40, dtype=torch.float64))


def test_a_common_factor_of_the_counts_cancels(logits10, counts10):
    one, hundred = (BalancedSoftmax().terms(*logits10, Context(counts10 * k, 1, 1))[0] for k in (1, 100))
    assert torch.allclose(one, hundred, rtol=1e-12)


def test_equal_classes_make_it_cross_entropy(logits10):
    losses, _ = BalancedSoftmax().terms(*logits10, Context(torch.full((10,), 7), 1, 1))
    assert torch.allclose(losses, F.cross_entropy(*logits10, reduction="none"), rtol=1e-12)


def test_its_minimum_is_the_posterior_under_equal_classes():
    """One input for all: logits whose shifted softmax is the prior are equal."""
    counts = torch.tensor([90, 9, 1])
    labels = torch.repeat_interleave(torch.arange(3), counts)
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    BalancedSoftmax()(logits.expand(100, 3), labels, Context(counts, 1, 1)).backward()
    assert torch.allclose(logits.grad, torch.zeros(3, dtype=torch.float64), atol=1e-15)


@pytest.mark.parametrize(
    ("classes", "imbalance", "steps"), [(10, 100, 25), (10, 200, 22), (10, 10, 40), (100, 100, 22), (100, 10, 39)]
)
def test_epochs_are_the_published_steps_of_512_images(cifar, classes, imbalance, steps):
    (stage,) = build_recipe("balanced-softmax", cifar(classes, imbalance)).stages
    assert math.ceil(sum(cifar(classes, imbalance).train_counts) / 512) == steps
    assert abs(stage.epochs * steps - 13_000) <= steps / 2
    first, second = build_recipe("balanced-softmax", cifar(classes, imbalance), decoupled=True).stages
    assert first.epochs == stage.epochs
    assert abs(second.epochs * steps - 2_000) <= steps / 2


@pytest.mark.parametrize("images", [380, 700, 5000])
def test_small_sets_are_not_trained_for_ever(images):
    """Their batches are halved until an epoch has ten steps."""
    assert epochs_of(13_000, images) == 1300
    assert epochs_of(3, images) == 1


def test_the_rate_is_warmed_up_from_a_half_and_follows_a_cosine(cifar):
    (stage,) = build_recipe("balanced-softmax", cifar()).stages
    assert stage.schedule == WarmupCosine(800 / 13_000, 0.5)
    rates = [stage.lr * stage.schedule.factor(e, 520) for e in range(1, 521)]
    assert rates[0] == pytest.approx(0.05)
    assert rates[32] == pytest.approx(0.1)  # 32 epochs are 800 steps of 25
    assert max(rates) == rates[32]
    expected = [0.1 * (1 + math.cos(math.pi * (25 * e - 800) / 12_200)) / 2 for e in range(32, 520)]
    assert rates[32:] == pytest.approx(expected, rel=1e-12)


def test_decoupled_it_is_cross_entropy_and_then_a_new_classifier(cifar):
    whole = build_recipe("balanced-softmax", cifar())
    recipe = build_recipe("balanced-softmax", cifar(), decoupled=True)
    first, second = recipe.stages
    assert (whole.head, recipe.head) == ("linear", "linear")
    assert (first.loss, first.schedule) == (CrossEntropy(), whole.stages[0].schedule)
    assert (second.loss, second.schedule, second.lr) == (BalancedSoftmax(), Cosine(), 0.1)
    assert (second.trainable, second.frozen_batchnorm, second.enter) == ("head", True, (NewHead(),))
    assert second.sampler == "instance"
    assert {(s.weight_decay, s.batch_size) for s in recipe.stages} == {(5e-4, 512)}
    assert any("AutoAugment" in note for note in recipe.notes)
