"""Cross-entropy with class weights: published weights, torch's weighted cross-entropy, and when they start."""

import pytest
import torch
from torch.nn import functional as F

from sharpness.methods import build_recipe
from sharpness.methods.ce_drw import ReweightedCrossEntropy
from sharpness.methods.ldam import LDAM
from sharpness.steps import Context

WEIGHTS = "0.0506 0.0769 0.1211 0.1950 0.3188 0.5246 0.8683 1.4426 2.4092 3.9927"


def test_weights_are_the_published_ones(counts10):
    _, weights = ReweightedCrossEntropy().terms(torch.zeros(10, 10), torch.arange(10), Context(counts10, 200, 200))
    assert " ".join(f"{w:.4f}" for w in weights) == WEIGHTS


@pytest.mark.parametrize("chosen", [slice(None), slice(0, 7), slice(9, 10)])
def test_after_it_is_torchs_weighted_cross_entropy(logits10, counts10, chosen):
    logits, labels = logits10[0][chosen], logits10[1][chosen]
    raw = torch.tensor([(1 - 0.9999) / (1 - 0.9999**n) for n in counts10.tolist()], dtype=torch.float64)
    value = ReweightedCrossEntropy()(logits, labels, Context(counts10, 161, 200))
    assert float(value) == pytest.approx(float(F.cross_entropy(logits, labels, raw)), rel=1e-10)


@pytest.mark.parametrize(("epochs", "last_plain"), [(200, 160), (10, 8), (5, 4), (1, 0)])
def test_it_switches_with_ldam_drw(logits10, counts10, epochs, last_plain):
    plain = []
    for epoch in range(1, epochs + 1):
        context = Context(counts10, epoch, epochs)
        weights = ReweightedCrossEntropy().terms(*logits10, context)[1]
        assert torch.equal(weights, LDAM().terms(*logits10, context)[1])
        plain.append(bool((weights == 1).all()))
    assert plain == [e <= last_plain for e in range(1, epochs + 1)]


def test_without_deferral_the_first_epoch_is_weighted(logits10, counts10, cifar):
    (stage,) = build_recipe("ce-drw", cifar(), deferred=False).stages
    first = stage.loss.terms(*logits10, Context(counts10, 1, 200))[1]
    assert torch.equal(first, ReweightedCrossEntropy().terms(*logits10, Context(counts10, 200, 200))[1])


def test_the_recipe_is_the_baseline_with_another_loss(cifar):
    (plain,), (stage,) = build_recipe("ce", cifar()).stages, build_recipe("ce-drw", cifar()).stages
    assert stage.loss == ReweightedCrossEntropy(0.8, 0.9999)
    assert (stage.schedule, stage.lr, stage.sampler, stage.mixup) == (plain.schedule, 0.1, "instance", 0)
