"""MiSLAS: the published smoothing, and torch's."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from sharpness.methods import build_recipe
from sharpness.methods.changes import AddWeightScaling
from sharpness.methods.mislas import LabelAwareSmoothing, smoothing_factors
from sharpness.steps import Context

SINES = "1.0000 0.8047 0.5261 0.3202 0.1877 0.1067 0.0577 0.0282 0.0105 0.0000"


def test_sine_factors_are_the_published_ones(counts10):
    assert " ".join(f"{f:.4f}" for f in smoothing_factors(counts10, 1.0, 0.0)) == SINES


def test_factors_reach_from_the_tail_to_the_head(counts10):
    factors = smoothing_factors(counts10, 0.4, 0.1)
    assert [float(factors[0]), float(factors[-1])] == pytest.approx([0.4, 0.1], rel=1e-14)
    sines = smoothing_factors(counts10, 1.0, 0.0)
    assert torch.allclose(factors, 0.1 + 0.3 * sines, rtol=1e-14)


def test_factors_do_not_depend_on_the_order_of_the_classes(counts10):
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    assert torch.equal(smoothing_factors(counts10[order], 0.4, 0.1), smoothing_factors(counts10, 0.4, 0.1)[order])


def test_equal_classes_are_smoothed_as_the_head():
    assert smoothing_factors(torch.tensor([7, 7, 7]), 0.3, 0.1).tolist() == [0.3] * 3


@pytest.mark.parametrize("epsilon", [0.1, 0.4, 1.0])
def test_constant_smoothing_is_torchs(logits10, counts10, epsilon):
    losses, _ = LabelAwareSmoothing(epsilon, epsilon).terms(*logits10, Context(counts10, 1, 1))
    expected = F.cross_entropy(*logits10, reduction="none", label_smoothing=epsilon)
    assert torch.allclose(losses, expected, rtol=1e-12)


def test_every_class_is_smoothed_by_its_own_factor(logits10, counts10):
    logits, labels = logits10
    losses, _ = LabelAwareSmoothing(0.3, 0.05).terms(logits, labels, Context(counts10, 1, 1))
    for sine, c in zip(SINES.split(), range(10), strict=True):
        expected = F.cross_entropy(
            logits[labels == c],
            labels[labels == c],
            reduction="none",
            label_smoothing=0.05 + 0.25 * float(sine),
        )
        # The published sines have four decimals.
        assert torch.allclose(losses[labels == c], expected, rtol=1e-3)


@pytest.mark.parametrize(
    ("classes", "imbalance", "head", "tail", "shift", "factor"),
    [
        (10, 100, 0.3, 0.0, False, 0.5),
        (10, 50, 0.2, 0.0, False, 0.2),
        (10, 10, 0.1, 0.0, False, 0.2),
        (100, 100, 0.4, 0.1, True, 0.2),
        (100, 50, 0.3, 0.0, True, 0.1),
        (100, 10, 0.2, 0.0, True, 0.1),
    ],
)
def test_the_second_stage_is_the_published_one(cifar, classes, imbalance, head, tail, shift, factor):
    first, second = build_recipe("mislas", cifar(classes, imbalance)).stages
    assert (first.mixup, first.sampler, first.trainable) == (1.0, "instance", "all")
    assert second.loss == LabelAwareSmoothing(head, tail)
    assert second.frozen_batchnorm is not shift
    assert (second.sampler, second.trainable, second.mixup) == ("class_balanced:4", "head", 0)
    assert second.enter == (AddWeightScaling(),)
    assert second.lr_factors == (("head.head.", factor),), "the classifier learns slower than its scaling"


def test_the_shift_can_be_chosen(cifar):
    published = build_recipe("mislas", cifar(10))
    chosen = build_recipe("mislas", cifar(10), shift_batchnorm=True)
    assert chosen.stages[1] == replace(published.stages[1], frozen_batchnorm=False)
    assert chosen.stages[0] == published.stages[0]


def test_it_is_deterministic_already():
    assert LabelAwareSmoothing().deterministic() == LabelAwareSmoothing()
