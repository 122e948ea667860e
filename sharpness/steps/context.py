"""Contexts of training steps."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from sharpness.renamed import renamed_arguments, renamed_attribute
from sharpness.transfer import to_device


def draw_normal(shape: torch.Size, generator: torch.Generator, device: torch.device) -> Tensor:
    """Draw standard normal float32 numbers from a CPU generator and move them to a device."""
    return to_device(torch.randn(shape, generator=generator), device)


@renamed_arguments(class_counts="train_counts")
@dataclass(frozen=True)
class Context:
    """The context of a step besides its batch: training counts, epoch, random numbers, precision.

    Batches and losses draw from ``generator``, rules from ``noise``. Two runs with the same seed and different rules
    therefore see the same images, crops and mixtures.
    """

    train_counts: Tensor  # (C,) training images per class
    epoch: int  # 1-based within the stage
    epochs: int  # of the stage
    generator: torch.Generator = field(default_factory=torch.Generator)
    noise: torch.Generator = field(default_factory=torch.Generator)
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    factors: Tensor | None = None  # (K, C) if a rule asks for K losses at once, see Loss.__call__
    draw: Callable[[torch.Size, torch.Generator, torch.device], Tensor] = draw_normal
    shards: int = 1  # number of shards of a batch
    sums: list[Tensor] | None = None  # in a shard, a loss appends the sum of its weights
    replayed: Callable[..., Any] | None = None  # calls a function of tensors, see sharpness.training.steps.Replays
    class_counts = renamed_attribute("class_counts", "train_counts")

    def normal(self, like: Tensor) -> Tensor:
        """Draw standard normal float32 numbers from ``generator``, with the shape and device of ``like``.

        Losses must draw only with this method: other draws would repeat when a step is replayed as a CUDA graph.
        """
        return self.draw(like.shape, self.generator, like.device)

    def apart(self) -> Context:
        """Return a copy of the context with its own generators, seeded by draws from ``noise``."""
        seeds = torch.randint(2**62, (2,), generator=self.noise).tolist()
        generator, noise = (torch.Generator().manual_seed(seed) for seed in seeds)
        return replace(self, generator=generator, noise=noise)

    def features(self, model: nn.Module, x: Tensor) -> Tensor:
        """Return features (n, d) in float32 or higher precision, computed under autocast if training uses it."""
        with self.autocast():
            features = model.backbone(x)  # type: ignore[operator]
        return at_least_float32(features)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Convert a tensor to float32, unless its precision is higher."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
