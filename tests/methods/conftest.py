"""A small network in float64 whose features have a graph, its batches, and long tails of CIFAR's counts."""

import pytest
import torch
from torch import nn

from sharpness.data import LongTail, profile_counts
from sharpness.models import CosineHead, LinearHead
from sharpness.steps import Batch, Context


class Network(nn.Module):
    """Two layers of features in five dimensions and a head for four classes."""

    def __init__(self, head):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(6, 5), nn.Tanh())
        self.head = head

    def forward(self, x):
        return self.head(self.backbone(x))


@pytest.fixture
def network():
    """A function from the kind of the head to a network."""

    def make(kind="linear"):
        head = LinearHead(5, 4) if kind == "linear" else CosineHead(5, 4, scale=7.0)
        model = Network(head).double()
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.randn(p.shape, generator=generator))
        return model

    return make


@pytest.fixture
def plain():
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(12, 6, dtype=torch.float64, generator=generator)
    return Batch(x, torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3]))


@pytest.fixture
def mixed(plain):
    """Class 3 has one image of its own; many partners share their image's label."""
    return Batch(plain.x, plain.first, torch.tensor([0, 1, 2, 3, 0, 0, 1, 2, 2, 0, 3, 1]), lam=0.625)


@pytest.fixture
def context():
    """The last of 200 epochs, so that deferred re-weighting is on."""
    return Context(torch.tensor([500, 60, 8, 1]), epoch=200, epochs=200)


def long_tail(classes=10, imbalance=100, largest=5000):
    counts = profile_counts("exp", imbalance, classes, largest)
    names = tuple(f"class {c}" for c in range(classes))
    return LongTail(f"cifar{classes}-lt", names, "exp", float(imbalance), "ldam_seed0", counts, "oltr")


@pytest.fixture
def cifar():
    """A function from (classes, imbalance) to the description of CIFAR-10-LT or CIFAR-100-LT."""
    return lambda classes=10, imbalance=100: long_tail(classes, imbalance, 5000 if classes == 10 else 500)


@pytest.fixture
def counts10():
    """CIFAR-10-LT at imbalance 100, as published."""
    return torch.tensor([5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50])


@pytest.fixture
def logits10():
    """Logits (40, 10) and labels of 40 images, every class among them."""
    generator = torch.Generator().manual_seed(8)
    logits = 5 * torch.randn(40, 10, dtype=torch.float64, generator=generator)
    return logits, torch.arange(40) % 10
