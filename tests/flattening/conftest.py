"""Small problems in float64: a residual network in training mode, a batch, and losses written out."""

import copy
import math
from dataclasses import dataclass, field

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F

from sharpness.methods.cross_entropy import CrossEntropy
from sharpness.methods.gcl import GCL
from sharpness.methods.ldam import LDAM
from sharpness.methods.mislas import LabelAwareSmoothing
from sharpness.models import build_model
from sharpness.steps import Batch, Context, Loss

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
            "CE": CrossEntropy(),
            "LDAM-DRW": LDAM(reweight_from=0.0),
            "label-aware smoothing": LabelAwareSmoothing(0.3, 0.0),
            "GCL": GCL(margin=0.1, gamma=1.0),
        }
    )

    def run(self, rule, loss="plain", batch=None):
        """The rule's value and gradients by name; the model keeps what the rule did to it."""
        self.model.zero_grad(set_to_none=True)
        value = rule.backward(self.model, batch or self.batch, self.losses[loss], self.context)
        return value, {name: p.grad for name, p in self.model.named_parameters()}


METHOD_LOSSES = ("CE", "LDAM-DRW", "label-aware smoothing", "GCL")


def restated_terms(kind, u, y, noise):
    """Losses and weights of the methods' papers for logits (n, 4) and labels (n,), from their formulas."""
    n, one = COUNTS.double(), F.one_hot(y, 4)
    weights = torch.ones(len(y), dtype=torch.float64)
    target = one.double()
    if kind == "LDAM-DRW":
        u = u - 30 * one * (0.5 * (n.min() / n) ** 0.25)
        effective = (1 - 0.9999) / (1 - 0.9999**n)
        weights = (4 * effective / effective.sum())[y]
    elif kind == "label-aware smoothing":
        smoothing = 0.3 * torch.sin(math.pi / 2 * (n - n.min()) / (n.max() - n.min()))[y, None]
        target = (1 - smoothing) * one + smoothing / 4
    elif kind == "GCL":
        size = (n.max() / n).log() / (n.max() / n.min()).log()
        u = u - 30 * 0.5 * noise * size - 30 * 0.1 * one
    losses = -(target * (u - u.logsumexp(1, keepdim=True))).sum(1)
    if kind == "GCL":
        losses = (1 - torch.exp(-losses)).detach() * losses
    return losses, weights


class Restated:
    """A training loss of a batch at any weights, and its gradient by autograd, with class factors on its sum.

    The noise of GCL is given once, so that every evaluation has the same.
    """

    def __init__(self, problem, kind, batch, noise):
        self.kind, self.batch, self.noise = kind, batch, noise
        self.model = copy.deepcopy(problem.model)
        self.w = {name: p.detach().clone() for name, p in problem.model.named_parameters()}

    def value(self, w, factor=(1.0, 1.0, 1.0, 1.0)):
        logits = functional_call(self.model, w, (self.batch.x,))
        factor = torch.as_tensor(factor, dtype=torch.float64)
        sides = [(self.batch.first, 1.0 if self.batch.second is None else self.batch.lam)]
        if self.batch.second is not None:
            sides.append((self.batch.second, 1 - self.batch.lam))
        total = 0.0
        for (labels, share), noise in zip(sides, self.noise, strict=False):
            losses, weights = restated_terms(self.kind, logits, labels, noise)
            total = total + share * (factor[labels] * weights * losses).sum() / weights.sum()
        return total

    def gradient(self, w=None, factor=(1.0, 1.0, 1.0, 1.0)):
        leaves = {name: p.clone().requires_grad_(True) for name, p in (w or self.w).items()}
        gradients = torch.autograd.grad(self.value(leaves, factor), list(leaves.values()))
        return dict(zip(leaves, gradients, strict=True))

    def climbed(self, direction, rho):
        """The weights, rho further along ``direction``."""
        return self.combined((1, self.w), (rho / self.norm(direction), direction))

    @staticmethod
    def norm(vector):
        return torch.cat([v.flatten() for v in vector.values()]).norm()

    @staticmethod
    def combined(*terms):
        """The sum of ``factor * vector``."""
        return {name: sum(factor * vector[name] for factor, vector in terms) for name in terms[0][1]}


@pytest.fixture(params=METHOD_LOSSES)
def kind(request):
    return request.param


@pytest.fixture(params=["plain", "mixed"])
def case(request, kind, problem, mixed):
    """Every loss of the methods, with and without mixup: run a rule, and the same loss written out."""
    batch = mixed if request.param == "mixed" else problem.batch
    problem.context.generator.manual_seed(4)
    twin = torch.Generator().manual_seed(4)
    noise = [(torch.randn(11, 4, generator=twin) / 3).clamp(-1, 1).abs().double() for _ in range(2)]
    restated = Restated(problem, kind, batch, noise)
    return lambda rule: problem.run(rule, kind, batch), restated


@dataclass(frozen=True)
class Bowls(Loss):
    """Class c has the loss ``(w - m_c)' A (w - m_c) / 2``: every gradient has a closed form."""

    hessian: torch.Tensor
    minima: torch.Tensor  # (C, d)

    def terms(self, logits, labels, context):
        away = logits - self.minima[labels]
        return 0.5 * (away @ self.hessian * away).sum(1), torch.ones(len(labels), dtype=torch.float64)

    def gradient(self, w, c):
        return self.hessian @ (w - self.minima[c])


class Point(torch.nn.Module):
    """A network whose logits are its weights, whatever the image."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
        self.head = torch.nn.Identity()

    def backbone(self, x):
        return self.w.expand(len(x), -1)


@dataclass
class BowlProblem:
    """Two images of class 0, one of class 1, one of class 3; ``shares`` are those of a batch's classes."""

    model: torch.nn.Module
    loss: Bowls
    batch: Batch
    context: Context
    shares: tuple = ((0, 0.5), (1, 0.25), (3, 0.25))

    def run(self, rule):
        self.model.zero_grad()
        rule.backward(self.model, self.batch, self.loss, self.context)
        return self.model.w.grad

    def gradient(self, w, factor=(1.0, 1.0, 1.0, 1.0)):
        return sum(share * factor[c] * self.loss.gradient(w, c) for c, share in self.shares)


@pytest.fixture
def bowls():
    root = torch.tensor([[2.0, 0.3, 0.0], [0.0, 1.0, -0.4], [0.0, 0.0, 0.5]], dtype=torch.float64)
    minima = torch.tensor([[0.0, 0, 0], [1, 1, 0], [3, 0, 1], [-2, 1, 4]], dtype=torch.float64)
    batch = Batch(torch.zeros(4, 1, 2, 2), torch.tensor([0, 1, 0, 3]))
    return BowlProblem(Point(), Bowls(root @ root.T, minima), batch, Context(COUNTS, epoch=1, epochs=2))


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
