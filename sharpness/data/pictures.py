"""One image file, opened as one of a few formats, resized and cropped in bounded memory."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpness.data.arrays import eight_bit
from sharpness.data.content import pixel_digests
from sharpness.errors import UserError
from sharpness.untrusted.refused import Refused
from sharpness.untrusted.regular_files import open_regular

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM", "TIFF", "GIF")
"""What is opened, whatever a file is called: Pillow knows others, and starts Ghostscript for one of them."""

MODES = {1: "L", 3: "RGB"}

FILE = 2**30
MEMORY, FACTOR = 448 * 10**6, 32
"""Bytes that one image may take while it is read: so many, and so many times those of its file."""

DECODER = {"JPEG": 6, "MPO": 6, "WEBP": 12, "TIFF": 4, "GIF": 4}
"""Bytes a pixel that a decoder takes beside the image."""

PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 16, "I;16B": 16, "I;16L": 16, "I;16N": 16, "I": 16}
"""Bytes a pixel of Pillow's modes, 16 bits with those of scaling; 4 of the others."""

STRETCHED = 16
"""From this ratio of its sides on, only the part of an image that is kept is scaled."""


def read_picture(path: Path, size: int | None, resize: int | None, channels: int) -> tuple[Tensor, np.uint64]:
    """One image file, ``(channels, h, w)`` uint8, and the digest of all its pixels.

    The arguments are those of :func:`~sharpness.data.image_files.read_files`.

    Raises:
        UserError: it is missing, damaged, no image of one of :data:`FORMATS`, or too large.
    """
    from PIL import Image

    try:
        opened, bytes_of_file = open_regular(path, FILE)
        with opened, warnings.catch_warnings():
            # Of damaged metadata, which nobody reads here; of too many pixels an error is made.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(opened, formats=FORMATS) as image:
                _require_memory(image, bytes_of_file)
                whole = _eight_bit(image)
                whole = _converted(whole, "L" if whole.mode == "L" else "RGB")
                digest = pixel_digests(to_tensor(whole)[None])[0]
                return to_tensor(_fit(_converted(whole, MODES[channels]), size, resize)), digest
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Refused as error:
        raise UserError(f"{path} {error}: replace it, or leave it out") from None
    except FileNotFoundError:
        raise UserError(f"there is no image {path}: restore it, or leave it out of the list") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(f"{path} has more than {Image.MAX_IMAGE_PIXELS:,} pixels: make it smaller") from None
    except MemoryError:
        raise UserError(f"{path} needs more memory than there is: make it smaller") from None
    except Exception:
        # Decoders raise nearly anything at damaged files.
        raise UserError(
            f"{path} is damaged or no image ({', '.join(FORMATS)}): replace it, or leave it out"
        ) from None  # fmt: skip


def _require_memory(image: Any, bytes_of_file: int) -> None:
    """Refuse an image before it is decoded, which a small file may be of a huge one."""
    grey = image.mode in ("1", "L") or image.mode.startswith("I")
    converted = 0 if grey or image.mode == "RGB" else 4
    each = PIXEL.get(image.mode, 4) + converted + max(DECODER.get(image.format, 0), 2 if grey else 6)
    pixels, most = math.prod(image.size), (MEMORY + FACTOR * bytes_of_file) // each
    if pixels > most:
        raise UserError(f"{pixels:,} pixels of mode {image.mode!r} are more than {most:,}: make it smaller")


def _fit(image: Any, size: int | None, resize: int | None) -> Any:
    """The central square of an image whose shorter side is scaled to ``resize``."""
    from PIL import Image

    if size is None:
        return image
    side, (width, height) = resize or size, image.size
    short = min(width, height)
    scaled = (side * width // short, side * height // short)
    left, top = (round((n - size) / 2) for n in scaled)
    if max(width, height) >= STRETCHED * short:
        ratios = (width / scaled[0], height / scaled[1])
        box = tuple(a * ratios[i % 2] for i, a in enumerate((left, top, left + size, top + size)))
        return image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    if short != side:
        image = image.resize(scaled, Image.Resampling.BILINEAR)
    return image.crop((left, top, left + size, top + size))


def _eight_bit(image: Any) -> Any:
    """A Pillow image with 8 bits a channel: 16 bits are scaled, where Pillow would cut at 255.

    Raises:
        UserError: integers of 32 bits, or floating-point ones, whose black and white are not known.
    """
    from PIL import Image

    # Pillow reads 16 bits of PGM, and once of PNG, into 32.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PPM", "PNG")):
        return Image.fromarray(eight_bit(torch.from_numpy(np.array(image).astype(np.int32))).numpy())
    if image.mode in ("I", "F"):
        raise UserError(
            f"pixels of mode {image.mode!r} have no known black and white: save it with 8 or 16 bits, or give an .npz "
            "of numbers"
        )
    return _converted(image, {"1": "L", "P": "RGB"}.get(image.mode, image.mode))


def _converted(image: Any, mode: str) -> Any:
    """The image itself where it has that mode: Pillow would copy it."""
    return image if image.mode == mode else image.convert(mode)


def to_tensor(image: Any) -> Tensor:
    """``(ch, h, w)`` uint8 of a Pillow image.

    Raises:
        UserError: pixels whose black and white are not known.
    """
    pixels = np.array(_eight_bit(image), dtype=np.uint8)
    return torch.from_numpy(pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1)))
