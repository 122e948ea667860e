"""Batched augmentation on tensors: random crop, random mirror, AutoAugment with Cutout, mixup.

Every random number comes from a CPU generator and is moved to the images' device afterwards, so that all
devices see the same augmentation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from sharpness.data.autoaugment import autoaugment_cutout
from sharpness.data.resized_crop import RESIZED_CROPS, resized_crops
from sharpness.errors import UserError, choose
from sharpness.transfer import to_device

AUGMENTATIONS = ("crop-flip", "crop", "none", "autoaugment-cutout", *RESIZED_CROPS)
#: Pixels that AutoAugment processes together: it takes about 300 small operations, however many images there are.
PIXELS_AT_ONCE = 2**21


def augmentation_label(kind: str) -> str:
    """The name of an augmentation on cards and labels."""
    return "no augmentation" if kind == "none" else kind


def random_crop(images: Tensor, padding: int, generator: Generator) -> Tensor:
    """Zero-pad each image and crop it at a random offset, like torchvision's RandomCrop(h, padding).

    Image i becomes ``P_i[:, dy_i : dy_i + h, dx_i : dx_i + w]``, where P_i is the image padded by ``padding``
    on each side and dy_i, dx_i are uniform on ``0 .. 2 * padding``, independent over images.

    Args:
        images: ``(n, ch, h, w)``.
        padding: pixels on each side; 0 returns the images unchanged.
        generator: CPU generator.

    >>> images = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 4, 4)
    >>> random_crop(images, 0, Generator()) is images
    True
    """
    if padding < 0:
        raise UserError(f"padding must be at least 0, not {padding}")
    if padding == 0:
        return images
    n, _, height, width = images.shape
    dy, dx = to_device(torch.randint(0, 2 * padding + 1, (2, n), generator=generator), images.device)
    windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(n, device=images.device), :, dy, dx]


def random_flip(images: Tensor, generator: Generator) -> Tensor:
    """Mirror each of the images ``(n, ch, h, w)`` left to right with probability 0.5."""
    mirrored = to_device(torch.rand(len(images), generator=generator) < 0.5, images.device)
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


def augment(images: Tensor, kind: str, padding: int, generator: Generator) -> Tensor:
    """Augment images ``(n, ch, h, w)`` before they are normalised.

    ``crop-flip`` is a random crop and mirror, ``crop`` the crop alone, ``none`` nothing. ``autoaugment-cutout`` is crop
    and mirror, AutoAugment's CIFAR-10 policy and Cutout, in the order of the published code of CC-SAM and Balanced
    Softmax; there, Cutout precedes the normalisation, so its square is black rather than the mean. ``resized-crop`` and
    ``resized-crop-jitter`` are the augmentations of large-scale training, see ``data/resized_crop.py``.

    Raises:
        UserError: an unknown kind, or AutoAugment for images that are neither grey nor RGB.

    >>> images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    >>> augment(images, "crop-flip", 1, Generator()).shape
    torch.Size([2, 3, 8, 8])
    """
    choose("augmentation", kind, AUGMENTATIONS)
    if kind in RESIZED_CROPS:
        return next(resized_crops(images, [torch.arange(len(images))], kind, generator))
    if kind == "none":
        return images
    cropped = random_crop(images, padding, generator)
    if kind == "crop":
        return cropped
    flipped = random_flip(cropped, generator)
    return flipped if kind == "crop-flip" else autoaugment_cutout(flipped, generator)


def augment_batches(
    images: Any, batches: Sequence[Tensor], kind: str, padding: int, generator: Generator
) -> Iterator[Tensor]:
    """Yield ``augment(images[batch], ...)`` for each batch of indices; images are a tensor, or rows to be read.

    AutoAugment processes several batches together, up to :data:`PIXELS_AT_ONCE`, when the first of them is requested.

    >>> images = torch.arange(6, dtype=torch.uint8).reshape(6, 1, 1, 1)
    >>> [x.flatten().tolist() for x in augment_batches(images, torch.arange(6).split(4), "none", 0, Generator())]
    [[0, 1, 2, 3], [4, 5]]
    """
    if kind in RESIZED_CROPS:
        yield from resized_crops(images, batches, kind, generator)
        return
    group = 1
    if kind == "autoaugment-cutout" and batches:
        group = max(1, PIXELS_AT_ONCE // (max(map(len, batches)) * images.shape[2] * images.shape[3]))
    for start in range(0, len(batches), group):
        together = batches[start : start + group]
        chosen = together[0] if len(together) == 1 else torch.cat(list(together))
        yield from augment(images[chosen], kind, padding, generator).split([len(batch) for batch in together])


def mixup(
    x: Tensor, alpha: float, generator: Generator, weights: Generator | None = None
) -> tuple[Tensor, Tensor, float]:
    """Mix each sample with a partner of its batch (Zhang et al., mixup, ICLR 2018).

    ``x~_i = lam * x_i + (1 - lam) * x_{p(i)}`` with one ``lam ~ Beta(alpha, alpha)`` per batch and a uniform
    permutation p. The loss is ``lam * l(x~_i, y_i) + (1 - lam) * l(x~_i, y_{p(i)})``.

    Args:
        x: ``(n, ...)``, floating point.
        alpha: above 0.
        generator: CPU generator.
        weights: generator for lam, if the shards of a batch share lam; ``generator`` by default.

    Returns:
        Mixed samples ``(n, ...)``, the permutation ``(n,)`` int64 on x's device, and lam.

    Raises:
        UserError: alpha not positive and finite, or x not floating point.

    >>> x = torch.eye(3)
    >>> mixed, partner, lam = mixup(x, 1.0, Generator().manual_seed(0))
    >>> torch.equal(mixed, lam * x + (1 - lam) * x[partner])
    True
    """
    if not math.isfinite(alpha) or alpha <= 0:
        raise UserError(f"mixup alpha must be a finite number above 0, not {alpha}")
    if not x.is_floating_point():
        raise UserError(f"mixup mixes normalised floating-point samples, not {x.dtype}")
    # Drawn by NumPy, because torch's beta distribution takes no generator.
    seed = int(torch.randint(0, 2**63 - 1, (1,), generator=weights or generator))
    lam = float(np.random.default_rng(seed).beta(alpha, alpha))
    partner = to_device(torch.randperm(len(x), generator=generator), x.device)
    return lam * x + (1 - lam) * x[partner], partner, lam
