r"""Pillow's image operations on batches ``(n, ch, h, w)`` of 8-bit images on any device, equal pixel for pixel.

Every image has its own parameters, in tensors on the images' device. Nothing waits for the device. Grey images
(ch = 1) are those of Pillow's mode "L", colour images (ch = 3) of "RGB".
"""

from __future__ import annotations

import torch
from torch import Tensor

#: What comes into view from outside an image.
GREY = 128


def look_up(images: Tensor, table: Tensor) -> Tensor:
    """``table[v]`` for every pixel v.

    Args:
        images: ``(n, ch, h, w)``.
        table: ``(n, 256)``, or ``(n, ch, 256)`` for every channel its own.

    >>> inverse = torch.arange(255, -1, -1, dtype=torch.uint8)[None]
    >>> look_up(torch.tensor([[[[0, 7, 255]]]], dtype=torch.uint8), inverse).flatten().tolist()
    [255, 248, 0]
    """
    flat = images.flatten(2).long()
    if table.ndim == 2:
        table = table[:, None].expand(-1, images.shape[1], -1)
    return table.gather(2, flat).view_as(images)


def histograms(images: Tensor) -> Tensor:
    """Histograms of the channels, ``(n, ch, 256)`` int64."""
    flat = images.flatten(2).long()
    counts = torch.zeros(*images.shape[:2], 256, dtype=torch.int64, device=images.device)
    return counts.scatter_add_(2, flat, torch.ones_like(flat))


def autocontrast(images: Tensor) -> Tensor:
    """Stretch every channel to 0 .. 255: ``int(v * s - lo * s)`` with ``s = 255 / (hi - lo)``, in double precision."""
    flat = images.flatten(2)
    low, high = (bound.long()[..., None] for bound in (flat.amin(2), flat.amax(2)))
    values = torch.arange(256, device=images.device, dtype=torch.float64)
    full = torch.full_like(values, 255.0)  # torch divides a number by a tensor as its reciprocal: rounded twice
    scale = full / (high - low).clamp_min(1).double()
    stretched = values * scale + -low * scale
    table = torch.where(high > low, stretched.clamp(0, 255), values).to(torch.uint8)
    return look_up(images, table)


def equalize(images: Tensor) -> Tensor:
    """Even out the histogram of every channel.

    Value v becomes ``(step // 2 + number of pixels below v) // step``, at most 255, where step is a 255th of the
    pixels that are below the largest value; a channel in which step is 0 stays as it is.
    """
    counts = histograms(images)
    upto = counts.cumsum(2)
    below_largest = torch.where(upto < upto[..., -1:], upto, 0).amax(2, keepdim=True)
    step = below_largest // 255
    spread = ((step // 2 + upto - counts) // step.clamp_min(1)).clamp_max(255)
    values = torch.arange(256, device=images.device)
    return look_up(images, torch.where(step > 0, spread, values).to(torch.uint8))


def luminance(images: Tensor) -> Tensor:
    """Grey images ``(n, 1, h, w)`` int32: 0.299 R + 0.587 G + 0.114 B in Pillow's fixed-point arithmetic."""
    if images.shape[1] == 1:
        return images.int()
    red, green, blue = images.int().unbind(1)
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16)[:, None]


def blend(degenerate: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """``d + factor * (v - d)`` in single precision, cut to 0 .. 255 and truncated.

    Args:
        degenerate: d, integers of a shape that broadcasts with the images'.
        factor: ``(n,)``; 0 gives d, 1 the images, above 1 more than them.
    """
    low = degenerate.float()
    return (low + factor.float()[:, None, None, None] * (images.float() - low)).clamp(0, 255).to(torch.uint8)


def color(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grey image."""
    return blend(luminance(images), images, factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean of the grey image, rounded."""
    grey = luminance(images).flatten(1)
    number = grey.shape[1]
    mean = (2 * grey.sum(1) + number) // (2 * number)
    return blend(mean[:, None, None, None], images, factor)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with black."""
    return blend(torch.zeros_like(images), images, factor)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the image smoothed by (1 1 1, 1 5 1, 1 1 1) / 13, rounded; pixels of the border are not smoothed."""
    height, width = images.shape[2:]
    smooth = images.int()
    if min(height, width) > 2:
        rows = smooth[:, :, :-2] + smooth[:, :, 1:-1] + smooth[:, :, 2:]
        inner = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * smooth[:, :, 1:-1, 1:-1]
        smooth[:, :, 1:-1, 1:-1] = (2 * inner + 13) // 26  # halves do not occur: 13 is odd
    return blend(smooth, images, factor)


def affine(images: Tensor, matrix: Tensor) -> Tensor:
    """The nearest pixel to ``(a x + b y + c, d x + e y + f)`` for every pixel (x, y); grey outside the image.

    Args:
        matrix: (a, b, c, d, e, f) in units of 2^-16, ``(n, 6)`` int64; c and f are where the centre of the first
            pixel comes from, so that whole parts are indices.
    """
    height, width = images.shape[2:]
    x = torch.arange(width, device=images.device)
    y = torch.arange(height, device=images.device)[:, None]
    a, b, c, d, e, f = matrix[:, :, None, None].unbind(1)
    column, row = (a * x + b * y + c) >> 16, (d * x + e * y + f) >> 16
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    source = (row * width + column).clamp(0, height * width - 1).flatten(1)[:, None].expand(-1, images.shape[1], -1)
    moved = images.flatten(2).gather(2, source).view_as(images)
    return moved.masked_fill(~inside[:, None], GREY)


def shear_y(images: Tensor, slope: Tensor) -> Tensor:
    """Pixel (x, y) comes from ``(x, y + slope * x)``, coordinates of centres, by Keys' cubic with a = -1; grey outside.

    Args:
        slope: ``(n,)`` float64.
    """
    height, width = images.shape[2:]
    x = torch.arange(width, device=images.device, dtype=torch.float64) + 0.5
    y = torch.arange(height, device=images.device, dtype=torch.float64)[:, None] + 0.5
    at = slope[:, None, None] * x + y
    inside = (at >= 0) & (at < height)
    at = at - 0.5
    below = at.floor()
    d = (at - below)[:, None]
    rows = [(below.long() + i).clamp(0, height - 1)[:, None].expand_as(images) for i in (-1, 0, 1, 2)]
    v1, v2, v3, v4 = (images.gather(2, row).double() for row in rows)
    value = v2 + d * (v3 - v1 + d * (2 * (v1 - v2) + v3 - v4 + d * (v2 - v1 - v3 + v4)))
    return value.clamp(0, 255).to(torch.uint8).masked_fill(~inside[:, None], GREY)


def shear_x(images: Tensor, slope: Tensor) -> Tensor:
    """Pixel (x, y) comes from ``(x + slope * y, y)``: :func:`shear_y` with the axes exchanged."""
    return shear_y(images.mT, slope).mT


def cutout(images: Tensor, row: Tensor, column: Tensor, length: int) -> Tensor:
    """Blacken a square around pixel (row, column) of every image, as far as it lies inside (DeVries & Taylor, 2017).

    Args:
        row, column: ``(n,)``; the square covers ``row - length // 2`` up to and without ``row + length // 2``.

    >>> image = torch.ones(1, 1, 3, 3, dtype=torch.uint8)
    >>> cutout(image, torch.tensor([1]), torch.tensor([0]), 2)[0, 0].tolist()
    [[0, 1, 1], [0, 1, 1], [1, 1, 1]]
    """
    y, x = (torch.arange(size, device=images.device) for size in images.shape[2:])
    half = length // 2
    of_rows, of_columns = (
        (at >= centre[:, None] - half) & (at < centre[:, None] + half) for at, centre in ((y, row), (x, column))
    )
    return images.masked_fill((of_rows[:, :, None] & of_columns[:, None])[:, None], 0)
