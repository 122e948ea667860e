r"""Translation of images from one class to another by gradients of two classifiers (M2m, CVPR 2020)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from sharpness.errors import UserError, require_whole

TINY = 1e-10


def per_image_norm(x: Tensor) -> Tensor:
    """Return the l2 norm of each image (n, ch, h, w), shape (n, 1, 1, 1)."""
    return torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True)


@dataclass(frozen=True)
class Translation:
    r"""Gradient descent from seed images of class k0 to images that g classifies as k, and f no longer as k0.

    .. code-block:: text

        x = clamp(seed + e, 0, 1)                            # e uniform on [-1/2, 1/2], cut to the length ``noise``
        repeat ``steps`` times:
            d = gradient with respect to x of  CE(g(x), k) + seed_weight * f(x)[k0]
            x = clamp(x - step_length * d / |d|, 0, 1)       # |d|: l2 norm over one image

    f(x)[k0] is a logit, not a probability. Images do not interact, because g and f are in eval mode. Each gradient is
    normalised separately, so sums over the batch give the same result as the published means.

    x, e, d and the length of d are in pixels of [0, 1], for which step and noise were published. Networks that take
    normalised images (x - m) / s, channel by channel, must normalise inside g and f. The gradient with respect to
    pixels is then that with respect to normalised values divided by s, and the clamp is at (0 - m) / s and (1 - m) / s.

    Args:
        seed_weight: lambda, weight of the logit of the seed class.
        step_length: length of a step.
        steps: number of steps.
        noise: largest length of e.
    """

    seed_weight: float = 0.5
    step_length: float = 0.1
    steps: int = 10
    noise: float = 0.5

    def __post_init__(self) -> None:
        require_whole("steps", self.steps, 1)
        if not (0 < self.step_length < math.inf and 0 <= self.noise < math.inf and 0 <= self.seed_weight < math.inf):
            raise UserError(f"{self}: give a finite step_length above 0, and noise and seed_weight of at least 0")

    def start(self, pixels: Tensor, generator: Generator) -> Tensor:
        """Return the seeds (n, ch, h, w) with noise, in [0, 1]."""
        noise = torch.rand(pixels.shape, generator=generator).to(pixels) - 0.5
        noise = noise * (self.noise / per_image_norm(noise).clamp_min(TINY)).clamp_max(1)
        return (pixels + noise).clamp(0, 1)

    def __call__(
        self,
        pixels: Tensor,
        seeds: Tensor,
        targets: Tensor,
        g: Callable[[Tensor], Tensor],
        f: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Return the images (n, ch, h, w) after all steps.

        Args:
            pixels: the result of ``start``.
            seeds: classes k0 (n,).
            targets: classes k (n,).
            g: maps pixels to logits (n, C) of the classifier that should predict k.
            f: maps pixels to logits (n, C) of the classifier that should no longer predict k0.
        """
        x = pixels
        for _ in range(self.steps):
            x = x.detach().requires_grad_(True)
            left = f(x).gather(1, seeds[:, None]).sum()
            objective = F.cross_entropy(g(x), targets, reduction="sum") + self.seed_weight * left
            (gradient,) = torch.autograd.grad(objective, x)
            step = gradient / per_image_norm(gradient).clamp_min(TINY)
            x = (x.detach() - self.step_length * step).clamp(0, 1)
        return x
