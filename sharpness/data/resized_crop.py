"""Augmentation of large-scale training: RandomResizedCrop, mirror and ColorJitter, pixel for pixel torchvision's.

Every image has random numbers of its own, from the seed of the epoch, its index, and how often it was drawn before, so
that neither worker processes nor batches nor resuming change them. They are drawn in torchvision's order: a generator
in the same state gives the same crop.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from sharpness.data.pictures import to_tensor
from sharpness.data.rows import Rows

SCALE, RATIO, TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10
#: Half the width of the interval of the factors of brightness, contrast and saturation around 1.
JITTER = 0.4
#: Names of these augmentations, and whether colours are jittered.
RESIZED_CROPS = {"resized-crop-jitter": True, "resized-crop": False}


def crop_box(height: int, width: int, generator: Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random crop.

    Its area is uniform on 0.08 .. 1 of the image's, the logarithm of its ratio of width to height on that of
    3/4 .. 4/3; after ten boxes that do not fit it is the largest central one of an allowed ratio.

    >>> crop_box(1, 1000, Generator().manual_seed(0))  # none of the ten fits
    (0, 499, 1, 1)
    """
    low, high = torch.log(torch.tensor(RATIO)).tolist()
    for _ in range(TRIES):
        area = height * width * torch.empty(1).uniform_(*SCALE, generator=generator).item()
        ratio = torch.exp(torch.empty(1).uniform_(low, high, generator=generator)).item()
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = int(torch.randint(0, height - h + 1, (1,), generator=generator))
            return top, int(torch.randint(0, width - w + 1, (1,), generator=generator)), h, w
    w, h = width, height
    if width / height < RATIO[0]:
        h = round(width / RATIO[0])
    elif width / height > RATIO[1]:
        w = round(height * RATIO[1])
    return (height - h) // 2, (width - w) // 2, h, w


def augmented_picture(image: Any, size: int, jitter: bool, generator: Generator) -> Any:
    """A Pillow image of a random crop, ``size`` by ``size``, perhaps mirrored, and with jittered colours.

    Args:
        image: RGB or grey, of any size.
        size: side of the result.
        jitter: whether brightness, contrast and saturation are multiplied by factors uniform on 0.6 .. 1.4, in a
            random order.
        generator: CPU generator.
    """
    from PIL import Image, ImageEnhance

    top, left, height, width = crop_box(image.height, image.width, generator)
    image = image.crop((left, top, left + width, top + height)).resize((size, size), Image.Resampling.BILINEAR)
    if torch.rand(1, generator=generator) < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if not jitter:
        return image
    kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    order = torch.randperm(4, generator=generator).tolist()  # torchvision's fourth is the hue, which stays as it is
    factors = [float(torch.empty(1).uniform_(1 - JITTER, 1 + JITTER, generator=generator)) for _ in kinds]
    for i in order:
        if i < len(kinds):
            image = kinds[i](image).enhance(factors[i])
    return image


def image_seed(epoch: int, index: int, draw: int) -> int:
    """The seed of an image in an epoch: a hash of the epoch's, its index, and how often it was drawn before."""
    digest = hashlib.sha256(f"{epoch} {index} {draw}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


class _Crops(Dataset[Tensor]):
    """Batches of random crops, each of which one worker makes."""

    def __init__(self, images: Any, batches: list[list[tuple[int, int]]], jitter: bool, epoch: int) -> None:
        self.images, self.batches, self.jitter, self.epoch = images, batches, jitter, epoch

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Tensor:
        batch = self.batches[number]
        indices = np.array([index for index, _ in batch])
        found = []
        for image, (index, draw) in zip(originals(self.images, indices), batch, strict=True):
            generator = Generator().manual_seed(image_seed(self.epoch, index, draw))
            made = augmented_picture(_picture(image), self.images.shape[-1], self.jitter, generator)
            found.append(to_tensor(made))
        return torch.stack(found)


def has_originals(images: Any) -> bool:
    """True if the source of images has them before they were resized and cropped."""
    return isinstance(images, Rows) and hasattr(images.source, "originals")


def originals(images: Any, indices: np.ndarray) -> Sequence[Tensor]:
    """Images before they were resized and cropped, where their source has them, else as they are."""
    if has_originals(images):
        found: Sequence[Tensor] = images.source.originals(images.index[indices])
        return found
    return list(images[torch.as_tensor(indices)].cpu())


def _picture(image: Tensor) -> Any:
    from PIL import Image

    pixels = image.numpy()
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def resized_crops(images: Any, batches: Sequence[Tensor], kind: str, generator: Generator) -> Iterator[Tensor]:
    """Random crops of one batch of indices after another, ``(len(batch), ch, h, w)`` uint8, on the images' device.

    Args:
        images: ``(n, ch, h, w)`` uint8, or :class:`~sharpness.data.rows.Rows`, whose source may have ``workers``.
        batches: of indices.
        kind: of :data:`RESIZED_CROPS`.
        generator: gives the seed of the epoch.
    """
    epoch = int(torch.randint(0, 2**63 - 1, (1,), generator=generator))
    drawn: Counter[int] = Counter()
    numbered: list[list[tuple[int, int]]] = []
    for batch in batches:
        numbered.append([])
        for index in batch.tolist():
            numbered[-1].append((index, drawn[index]))
            drawn[index] += 1
    workers = getattr(images.source, "workers", 0) if isinstance(images, Rows) else 0
    crops = _Crops(images, numbered, RESIZED_CROPS[kind], epoch)
    # Workers are seeded from a generator of their own: the global one stays as it was.
    loader = DataLoader(crops, batch_size=None, num_workers=workers, generator=Generator().manual_seed(0))
    for made in loader:
        yield made.to(images.device)
