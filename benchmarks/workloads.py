"""What is measured: a network over random images, one over digits, and their float64 oracle."""

from __future__ import annotations

import copy
import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sharpness
from sharpness.models import build_model

LAYOUTS = {"channels-last": torch.channels_last, "contiguous": torch.contiguous_format}
Problem = tuple[nn.Module, Tensor, Tensor]


def random_images(model_name: str, images: int, layout: str = "channels-last") -> Problem:
    """A network at its initialisation over random images and labels, in eval mode."""
    model = warmed(model_name, 10)
    return in_layout((model, torch.randn(images, 3, 32, 32), torch.randint(10, (images,))), layout)


WARMED = "random weights, running statistics of a few batches of noise"


def warmed(model_name: str, classes: int) -> nn.Module:
    """A network at its initialisation in eval mode, its running statistics taken away from 0 and 1 by some noise."""
    torch.manual_seed(0)
    model = build_model(model_name, num_classes=classes, in_channels=3)
    with torch.no_grad():
        for _ in range(5):
            model(1.5 * torch.randn(32, 3, 32, 32) + 0.5)
    return model.eval()


def digits(
    model_name: str, per_class: int, size: int, epochs: int, device: torch.device | str = "cpu", part: str = "test"
) -> Problem:
    """A network trained briefly on the embedded long tail of digits, over the first images of every class.

    The 8x8 digits are upsampled to ``size``. SGD with momentum 0.9 and learning rate 0.05 in batches of 64. There are
    50 test images of a class; for more the images are those of the whole training set (``part="train"``), 124 of each.
    """
    torch.manual_seed(0)
    data = sharpness.load_data("digits-lt")
    train_x, train_y = data.train.tensors
    x, y = data.test.tensors if part == "test" else sharpness.load_data("digits-lt", imbalance=1).train.tensors
    train_x, x = (F.interpolate(t, size=(size, size), mode="bilinear", antialias=True) for t in (train_x, x))
    train_x, train_y, x, y = (t.to(device) for t in (train_x, train_y, x, y))
    model = build_model(model_name, num_classes=10, in_channels=1).train().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for _ in range(epochs):
        for batch in torch.randperm(len(train_y)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(train_x[batch]), train_y[batch]).backward()
            optimizer.step()
    optimizer.zero_grad()
    chosen = torch.cat([(y == c).nonzero().flatten()[:per_class] for c in range(10)])
    return model.eval(), x[chosen], y[chosen]


def in_layout(problem: Problem, layout: str) -> Problem:
    """A copy of the problem in a memory layout."""
    model, x, y = problem
    memory_format = LAYOUTS[layout]
    return copy.deepcopy(model).to(memory_format=memory_format), x.contiguous(memory_format=memory_format), y


def gradient(problem: Problem) -> tuple[Tensor, ...]:
    """The unit: the gradient of the mean cross-entropy by plain PyTorch in one pass."""
    model, x, y = problem
    return torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))


def exact_product(problem: Problem) -> Callable[[Tensor], Tensor]:
    """v to Hv by plain double backward in float64: the oracle."""
    model, x, y = problem
    model, x = copy.deepcopy(model).double(), x.double()
    parameters = list(model.parameters())

    def product(v: Tensor) -> Tensor:
        first = torch.autograd.grad(F.cross_entropy(model(x), y), parameters, create_graph=True)
        return flat(torch.autograd.grad(first, parameters, split(v.double(), parameters)))

    return product


def flat(tensors: tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    """One vector, in the order of ``named_parameters()``."""
    return torch.cat([t.detach().reshape(-1) for t in tensors])


def split(v: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
    """The inverse of :func:`flat`."""
    pieces = v.split([p.numel() for p in parameters])
    return [piece.view(p.shape) for piece, p in zip(pieces, parameters, strict=True)]


def like_filters(p: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A Gaussian direction whose filters are as long as those of p; zeros for biases and BatchNorm."""
    d, axes = torch.randn(p.shape, generator=generator), tuple(range(1, p.ndim))
    if not axes:
        return torch.zeros_like(d)
    return d * (p.square().sum(axes, keepdim=True) / d.square().sum(axes, keepdim=True)).sqrt()


def unit_vector(size: int) -> Tensor:
    """A fixed random vector of norm 1."""
    v = torch.randn(size, generator=torch.Generator().manual_seed(1))
    return v / v.norm()


def describe(distributions: list[str]) -> list[str]:
    """The machine, and the versions of torch and of what is compared."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cpu = names[0] if names else platform.processor() or "unknown processor"
    return [
        f"{cpu} ({platform.machine()}), {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        f"{platform.system()}, Python {platform.python_version()}, torch {torch.__version__}, "
        + ", ".join(f"{name} {version(name)}" for name in distributions),
    ]
