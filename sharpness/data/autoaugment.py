r"""AutoAugment's policy for CIFAR-10 (Cubuk et al., CVPR 2019) and Cutout (DeVries & Taylor, 2017), batched.

The policy has 25 sub-policies of two operations, each with a probability and a level of 0 .. 9. For each image, one
sub-policy is drawn, and each of its operations is applied with its probability, in a random direction if it has one.
Ranges and details that are only published as code (shears about the corner with cubic interpolation, rotation in one
direction only, grey fill) are those of the CIFAR10Policy class that the long-tailed literature shares.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from sharpness.data import operations as op
from sharpness.errors import UserError
from sharpness.transfer import to_device

#: (probability, operation, level) twice for every sub-policy.
POLICY = (
    ((0.1, "invert", 7), (0.2, "contrast", 6)),
    ((0.7, "rotate", 2), (0.3, "translate_x", 9)),
    ((0.8, "sharpness", 1), (0.9, "sharpness", 3)),
    ((0.5, "shear_y", 8), (0.7, "translate_y", 9)),
    ((0.5, "autocontrast", 8), (0.9, "equalize", 2)),
    ((0.2, "shear_y", 7), (0.3, "posterize", 7)),
    ((0.4, "color", 3), (0.6, "brightness", 7)),
    ((0.3, "sharpness", 9), (0.7, "brightness", 9)),
    ((0.6, "equalize", 5), (0.5, "equalize", 1)),
    ((0.6, "contrast", 7), (0.6, "sharpness", 5)),
    ((0.7, "color", 7), (0.5, "translate_x", 8)),
    ((0.3, "equalize", 7), (0.4, "autocontrast", 8)),
    ((0.4, "translate_y", 3), (0.2, "sharpness", 6)),
    ((0.9, "brightness", 6), (0.2, "color", 8)),
    ((0.5, "solarize", 2), (0.0, "invert", 3)),
    ((0.2, "equalize", 0), (0.6, "autocontrast", 0)),
    ((0.2, "equalize", 8), (0.6, "equalize", 4)),
    ((0.9, "color", 9), (0.6, "equalize", 6)),
    ((0.8, "autocontrast", 4), (0.2, "solarize", 8)),
    ((0.1, "brightness", 3), (0.7, "color", 0)),
    ((0.4, "solarize", 5), (0.9, "autocontrast", 3)),
    ((0.9, "translate_y", 9), (0.7, "translate_y", 9)),
    ((0.9, "autocontrast", 2), (0.8, "solarize", 3)),
    ((0.8, "equalize", 8), (0.1, "invert", 3)),
    ((0.7, "translate_y", 9), (0.9, "autocontrast", 1)),
)
LEVELS = 10
#: Magnitude by level, for operations that have one.
MAGNITUDES: dict[str, np.ndarray] = {
    **dict.fromkeys(("shear_x", "shear_y"), np.linspace(0, 0.3, LEVELS)),
    **dict.fromkeys(("translate_x", "translate_y"), np.linspace(0, 150 / 331, LEVELS)),
    "rotate": np.linspace(0, 30, LEVELS),
    "posterize": np.linspace(8, 4, LEVELS).round(),
    "solarize": np.linspace(256, 0, LEVELS),
    **dict.fromkeys(("brightness", "color", "contrast", "sharpness"), np.linspace(0, 0.9, LEVELS)),
}
#: Operations that one pass over part of the batch performs together, because they differ only in their tables.
FAMILIES = {
    "affine": ("rotate", "translate_x", "translate_y"),
    "look_up": ("brightness", "invert", "posterize", "solarize"),
    **{name: (name,) for name in ("shear_x", "shear_y", "autocontrast", "equalize", "color", "contrast", "sharpness")},
}
OPERATIONS = tuple(name for names in FAMILIES.values() for name in names)
_FAMILY_OF = torch.tensor([list(FAMILIES).index(f) for f, names in FAMILIES.items() for _ in names])
_PROBABILITY = torch.tensor([[p for p, _, _ in pair] for pair in POLICY], dtype=torch.float64)


def variant(operation: str, level: int, sign: int = 0) -> int:
    """The index of an operation at a level and in a direction (``sign`` 0 for +, 1 for -)."""
    return (OPERATIONS.index(operation) * LEVELS + level) * 2 + sign


_VARIANT = torch.tensor([[variant(name, level) for _, name, level in pair] for pair in POLICY])


class Tables(NamedTuple):
    """Parameters of all V variants, see :func:`variant`; rows of operations without a parameter change nothing.

    Attributes:
        look_up: ``(V, 256)`` uint8.
        matrix: matrices for :func:`sharpness.data.operations.affine`, ``(V, 6)`` int64.
        slope: slopes of shears, ``(V,)`` float64.
        factor: blending factors, ``(V,)`` float32.
    """

    look_up: Tensor
    matrix: Tensor
    slope: Tensor
    factor: Tensor


def _fixed(value: float) -> int:
    return math.floor(value * 65536.0 + 0.5)


def _rotation(degrees: float, height: int, width: int) -> list[int]:
    """The matrix of a rotation about the centre, in 16.16 fixed point."""
    angle = -math.radians(degrees)
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
    c = cos * (-width / 2) + sin * (-height / 2) + width / 2
    f = -sin * (-width / 2) + cos * (-height / 2) + height / 2
    matrix = (cos, sin, c + cos * 0.5 + sin * 0.5, -sin, cos, f - sin * 0.5 + cos * 0.5)
    return [_fixed(v) for v in matrix]


def _translation(dx: float, dy: float) -> list[int]:
    return [1 << 16, 0, math.floor(dx + 0.5) << 16, 0, 1 << 16, math.floor(dy + 0.5) << 16]


@lru_cache(maxsize=16)
def tables(height: int, width: int, device: torch.device) -> Tables:
    """Parameters of all operations for images of one size."""
    # With a row for each operation, level and sign, a batch looks up all its parameters by indexing, without a loop.
    number = len(OPERATIONS) * LEVELS * 2
    values = torch.arange(256)
    found = Tables(
        values.to(torch.uint8).repeat(number, 1),
        torch.tensor(_translation(0, 0)).repeat(number, 1),
        torch.zeros(number, dtype=torch.float64),
        torch.ones(number),
    )
    for name in OPERATIONS:
        for level in range(LEVELS):
            size = float(MAGNITUDES[name][level]) if name in MAGNITUDES else 0.0
            for direction, sign in enumerate((1, -1)):
                v, signed = variant(name, level, direction), sign * size
                if name == "rotate":
                    found.matrix[v] = torch.tensor(_rotation(size, height, width))
                elif name == "translate_x":
                    found.matrix[v] = torch.tensor(_translation(size * width * sign, 0))
                elif name == "translate_y":
                    found.matrix[v] = torch.tensor(_translation(0, size * height * sign))
                elif name == "invert":
                    found.look_up[v] = 255 - values
                elif name == "posterize":
                    found.look_up[v] = values & ~(2 ** (8 - int(size)) - 1)
                elif name == "solarize":
                    found.look_up[v] = torch.where(values < size, values, 255 - values)
                elif name in ("shear_x", "shear_y"):
                    found.slope[v] = signed
                else:
                    found.factor[v] = 1 + signed
                # A blend with black depends only on the pixel's value, so it is a look-up table, too.
                if name == "brightness":
                    black = torch.zeros(1, 1, 1, 1)
                    found.look_up[v] = op.blend(black, values[None, None, None], found.factor[v : v + 1]).flatten()
    return Tables(*(to_device(t, device) for t in found))


def perform(images: Tensor, family: str, variants: Tensor) -> Tensor:
    """Apply operations of one of :data:`FAMILIES` to a batch.

    Args:
        images: ``(n, ch, h, w)`` uint8.
        variants: variant for each image, ``(n,)``, on the images' device.
    """
    table = tables(images.shape[2], images.shape[3], images.device)
    if family == "affine":
        return op.affine(images, table.matrix[variants])
    if family == "look_up":
        return op.look_up(images, table.look_up[variants])
    if family in ("shear_x", "shear_y"):
        return (op.shear_x if family == "shear_x" else op.shear_y)(images, table.slope[variants])
    if family in ("autocontrast", "equalize"):
        return (op.autocontrast if family == "autocontrast" else op.equalize)(images)
    enhance = {"color": op.color, "contrast": op.contrast, "sharpness": op.sharpness}[family]
    return enhance(images, table.factor[variants])


class Draws(NamedTuple):
    """The random choices for a batch, on the CPU.

    Attributes:
        variants: variants of the first and second operation, ``(2, n)``.
        applied: whether each operation is applied, ``(2, n)`` bool.
        centres: row and column of Cutout's centre, ``(2, n)``.
    """

    variants: Tensor
    applied: Tensor
    centres: Tensor


def draw(n: int, height: int, width: int, generator: Generator) -> Draws:
    """Draw the sub-policy of each image, the operations that are applied, their directions, and Cutout's centre."""
    chosen = torch.randint(len(POLICY), (n,), generator=generator)
    applied = torch.rand(2, n, generator=generator, dtype=torch.float64) < _PROBABILITY[chosen].T
    directions = torch.randint(2, (2, n), generator=generator)
    centres = torch.stack([torch.randint(size, (n,), generator=generator) for size in (height, width)])
    return Draws(_VARIANT[chosen].T + directions, applied, centres)


def autoaugment_cutout(images: Tensor, generator: Generator) -> Tensor:
    """Apply AutoAugment's CIFAR-10 policy, then a black square of half the images' side (Cutout(1, 16) at 32 pixels).

    The images of a batch are sorted by operation on the CPU, where the random numbers are drawn, so the device never
    has to be waited for.

    Args:
        images: ``(n, ch, h, w)`` uint8, colour or grey.
        generator: CPU generator.

    Raises:
        UserError: images with another number of channels.
    """
    n, channels, height, width = images.shape
    if channels not in (1, 3):
        raise UserError(
            f"autoaugment-cutout is for grey or RGB images, not {channels} channels: take crop-flip or none"
        )
    draws = draw(n, height, width, generator)
    family = torch.where(draws.applied, _FAMILY_OF[draws.variants // (2 * LEVELS)], len(FAMILIES))
    order = family.argsort(dim=1, stable=True)
    sizes = [torch.bincount(row, minlength=len(FAMILIES) + 1).tolist() for row in family]
    sent = torch.cat([order, draws.variants.gather(1, order), draws.centres])
    where_1, where_2, variants_1, variants_2, row, column = to_device(sent, images.device)
    images = images.clone()
    for where, variants, of_family in ((where_1, variants_1, sizes[0]), (where_2, variants_2, sizes[1])):
        parts = zip(FAMILIES, where.split(of_family), variants.split(of_family), strict=False)
        for name, part, numbers in parts:
            if len(part):
                images.index_copy_(0, part, perform(images[part], name, numbers))
    return op.cutout(images, row, column, min(height, width) // 2)
