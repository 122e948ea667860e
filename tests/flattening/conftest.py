"""Small problems in float64: a residual network in training mode, a batch, and losses written out."""

from dataclasses import dataclass, field

import pytest
import torch
from torch.nn import functional as F

from sharpness.flattening import Batch, Context, Loss
from sharpness.models import build_model

COUNTS = torch.tensor([100, 30, 9, 2])


class PlainCrossEntropy(Loss):
    def terms(self, logits, labels, context):
        losses = F.cross_entropy(logits, labels, reduction="none")
        return losses, torch.ones_like(losses)


class WeightedCrossEntropy(Loss):
    """Class c weighs 1 + c: the normalisation shows."""

    def terms(self, logits, labels, context):
        return F.cross_entropy(logits, labels, reduction="none"), 1.0 + labels


class NoisyCrossEntropy(Loss):
    """Every call draws noise for its logits from the context."""

    def terms(self, logits, labels, context):
        noise = torch.randn(logits.shape, generator=context.generator)
        losses = F.cross_entropy(logits + noise, labels, reduction="none")
        return losses, torch.ones_like(losses)


@dataclass
class Problem:
    """What a rule is given."""

    model: torch.nn.Module
    batch: Batch
    context: Context
    losses: dict = field(
        default_factory=lambda: {
            "plain": PlainCrossEntropy(),
            "weighted": WeightedCrossEntropy(),
            "noisy": NoisyCrossEntropy(),
        }
    )

    def run(self, rule, loss="plain", batch=None):
        """The rule's value and gradients by name; the model keeps what the rule did to it."""
        self.model.zero_grad(set_to_none=True)
        value = rule.backward(self.model, batch or self.batch, self.losses[loss], self.context)
        return value, {name: p.grad for name, p in self.model.named_parameters()}


@pytest.fixture
def problem():
    """Nothing is trained and biases are not zero, so that no gradient vanishes."""
    generator = torch.Generator().manual_seed(11)
    model = build_model("resnet8", len(COUNTS), in_channels=1).double().train()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.2 + (0.5 if p.ndim == 1 else 0.0))
    x = torch.randn(11, 1, 8, 8, dtype=torch.float64, generator=generator)
    first = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 0, 0])
    return Problem(model, Batch(x, first), Context(COUNTS, epoch=1, epochs=2))


@pytest.fixture
def mixed(problem):
    """The same images as mixed ones; class 3 is only ever a partner."""
    second = torch.tensor([1, 0, 2, 3, 0, 1, 0, 3, 0, 2, 1])
    return Batch(problem.batch.x, problem.batch.first, second, lam=0.75)


@pytest.fixture
def same():
    """Compare gradients by name, to the rounding of float64."""

    def compare(one, other, rtol=1e-9):
        assert one.keys() == other.keys()
        for name in one:
            size = other[name].abs().max()
            assert torch.allclose(one[name], other[name], rtol=rtol, atol=float(rtol * size)), name

    return compare
