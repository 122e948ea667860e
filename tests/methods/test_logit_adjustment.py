"""Logit adjustment: what tau is, the released schedule, and the two variants."""

import pytest
import torch
from torch.nn import functional as F

from sharpness.methods import build_recipe
from sharpness.methods.balanced_softmax import BalancedSoftmax
from sharpness.methods.cross_entropy import CrossEntropy
from sharpness.methods.logit_adjustment import LogitAdjustment, SubtractPriors
from sharpness.models import build_model
from sharpness.steps import Context


def test_tau_1_is_balanced_softmax(logits10, counts10):
    context = Context(counts10, 1, 1)
    adjusted, balanced = (loss.terms(*logits10, context)[0] for loss in (LogitAdjustment(), BalancedSoftmax()))
    assert torch.allclose(adjusted, balanced, rtol=1e-12)


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_priors_are_raised_to_tau(logits10, counts10, tau):
    logits, labels = logits10
    grown = (counts10.double() / counts10.sum()) ** tau * logits.exp()
    losses, _ = LogitAdjustment(tau).terms(logits, labels, Context(counts10, 1, 1))
    assert torch.allclose(losses, -(grown[torch.arange(40), labels] / grown.sum(1)).log(), rtol=1e-10)


@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_post_hoc_logits_are_shifted_and_their_training_loss_is_the_one_before(counts10, tau):
    network = build_model("resnet8", 10, 1).double().eval()
    context = Context(counts10, 0, 0)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 1, 8, 8, dtype=torch.float64, generator=generator)
    labels = torch.arange(40) % 10
    before = network(x).detach()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    SubtractPriors(tau)(network, context)
    after = network(x).detach()
    assert torch.allclose(after, before - tau * (counts10.double() / 12406).log(), rtol=1e-12)
    trained = F.cross_entropy(before, labels, reduction="none")
    assert torch.allclose(LogitAdjustment(tau).terms(after, labels, context)[0], trained, rtol=1e-10)
    assert [n for n, t in network.state_dict().items() if not torch.equal(t, state[n])] == ["head.bias"]


def test_a_head_without_bias_cannot_be_adjusted_afterwards(counts10):
    with pytest.raises(ValueError, match="CosineHead has no bias"):
        SubtractPriors()(build_model("resnet8", 10, head="cosine"), Context(counts10, 0, 0))


@pytest.mark.parametrize(
    ("classes", "of", "warmup", "drops"), [(10, 1241, 20, (604, 926, 1128)), (100, 1419, 22, (691, 1059, 1290))]
)
def test_the_schedule_is_the_released_one(cifar, classes, of, warmup, drops):
    """Linear over the warm-up; 1, 0.1, 0.01 and 0.001 from the named epochs on, counted from 0."""
    (stage,) = build_recipe("logit-adjustment", cifar(classes)).stages
    assert (stage.epochs, stage.lr, stage.momentum, stage.nesterov) == (of, 0.1, 0.9, True)
    factors = [stage.schedule.factor(e, of) for e in range(1, of + 1)]
    for index, factor in enumerate(factors):
        if index < warmup:
            assert factor == pytest.approx((index + 1) / warmup)
        else:
            assert factor == pytest.approx(0.1 ** sum(index >= d for d in drops))


def test_post_hoc_is_the_same_recipe_on_plain_cross_entropy(cifar):
    (whole,) = build_recipe("logit-adjustment", cifar(), tau=1.5).stages
    first, second = build_recipe("logit-adjustment", cifar(), tau=1.5, posthoc=True).stages
    assert whole.loss == second.loss == LogitAdjustment(1.5)
    assert (first.loss, first.schedule, first.epochs) == (CrossEntropy(), whole.schedule, whole.epochs)
    assert (second.epochs, second.enter) == (0, (SubtractPriors(1.5),))
