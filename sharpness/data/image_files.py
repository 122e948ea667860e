"""Image files by class folder or by list, opened, resized and cropped the same way for every model."""

from __future__ import annotations

import gzip
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpness.data.arrays import MOST_CLASSES, eight_bit
from sharpness.data.identity import pixel_digests
from sharpness.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")
MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class ImageFiles:
    """Paths ``(n,)`` and labels ``(n,)`` of image files, and the names of the classes where they are known."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...] | None = None

    def limit_per_class(self, n: int) -> ImageFiles:
        """The first ``n`` files of each class, in the order of the list."""
        seen: dict[int, int] = {}
        kept = []
        for i, label in enumerate(self.labels):
            seen[label] = seen.get(label, 0) + 1
            if seen[label] <= n:
                kept.append(i)
        return ImageFiles(
            tuple(self.paths[i] for i in kept), tuple(self.labels[i] for i in kept), self.class_names
        )  # fmt: skip


def class_folders(folder: Path, class_names: Sequence[str] | None = None) -> ImageFiles:
    """Images in one folder per class; label order is that of the sorted folder names, or of ``class_names``.

    Raises:
        UserError: no class folders, one without images, or names that do not belong to the folders.
    """
    folders = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise UserError(f"{folder} has no folders: put the images of each class into a folder of its own")
    names = tuple(class_names) if class_names is not None else tuple(folders)
    strange = [name for name in folders if name not in names]
    if strange:
        raise UserError(f"{folder / strange[0]} is none of the {len(names)} classes named: {', '.join(names[:5])}, ...")
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        if name not in folders:
            continue
        found = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not found:
            raise UserError(f"{folder / name} holds no images ({', '.join(SUFFIXES[:4])}, ...): add some or remove it")
        paths += found
        labels += [label] * len(found)
    return ImageFiles(tuple(paths), tuple(labels), names)


def listed(path: Path, root: Path | None = None) -> ImageFiles:
    """Images of a list with ``relative/path label`` on each line, plain or gzipped, paths relative to ``root``.

    Raises:
        UserError: a line that is not that, no lines, or a file that is not there; the line is named.
    """
    base = root if root is not None else path.parent
    paths: list[Path] = []
    labels: list[int] = []
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        name, _, label = line.strip().replace("\t", " ").rpartition(" ")
        if not name or not label.isdecimal():
            raise UserError(f"{path} line {number} is {line.strip()[:60]!r}: write 'path label' with a label from 0 on")
        if len(label) > 20 or int(label) >= MOST_CLASSES:
            raise UserError(
                f"{path} line {number}: label {label[:24]} is not below {MOST_CLASSES:,}: number the classes from 0"
            )
        found = base / name.strip()
        if not paths and not found.is_file():
            raise UserError(f"{path} line {number}: no image {found}: say with root= where the list's paths begin")
        paths.append(found)
        labels.append(int(label))
    if not paths:
        raise UserError(f"{path} lists no images: write 'path label' on each line")
    return ImageFiles(tuple(paths), tuple(labels))


def _lines(path: Path) -> Iterator[str]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as file:
            yield from file
    except (UnicodeDecodeError, EOFError, OSError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UserError(f"cannot read the list {path}: {reason}") from None


def read_files(files: ImageFiles, *, size: int | None, resize: int | None, channels: int) -> tuple[Tensor, np.ndarray]:
    """All images, ``(n, channels, h, w)`` uint8, and digests ``(n,)`` of their pixels as the files have them.

    Args:
        files: which.
        size: side of the central square that is kept; None keeps images as they are.
        resize: the shorter side before that crop, ``size`` unless given; bilinear, with the long side rounded down.
        channels: 3 for colour, 1 for grey.

    Raises:
        UserError: a file that is missing or no image, or images of different sizes without ``size``.
    """
    images: Tensor | None = None
    digests = np.empty(len(files.paths), dtype=np.uint64)
    for i, path in enumerate(files.paths):
        image, digests[i] = _open(path, size, resize, channels)
        if images is None:
            images = torch.empty((len(files.paths), *image.shape), dtype=torch.uint8)
        if image.shape != images.shape[1:]:
            here, first = ("x".join(map(str, s)) for s in (image.shape[1:], images.shape[2:]))
            raise UserError(f"{path} is {here} pixels and {files.paths[0]} is {first}: give size= to make them alike")
        images[i] = image
    assert images is not None
    return images, digests


def _open(path: Path, size: int | None, resize: int | None, channels: int) -> tuple[Tensor, np.uint64]:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                whole = _eight_bit(image)
                digest = pixel_digests(to_tensor(whole if whole.mode == "L" else whole.convert("RGB"))[None])[0]
                return to_tensor(_fit(whole.convert(MODES[channels]), size, resize)), digest
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise UserError(f"there is no image {path}: restore it, or leave it out of the list") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(f"{path} has more than {Image.MAX_IMAGE_PIXELS:,} pixels: make it smaller") from None
    except Exception:
        # Decoders raise nearly anything at damaged files.
        raise UserError(f"{path} is damaged or no image: replace it, or leave it out") from None


def _fit(image: Any, size: int | None, resize: int | None) -> Any:
    if size is None:
        return image
    side, (width, height) = resize or size, image.size
    short = min(width, height)
    if short != side:
        from PIL import Image

        image = image.resize((side * width // short, side * height // short), Image.Resampling.BILINEAR)
    left, top = round((image.size[0] - size) / 2), round((image.size[1] - size) / 2)
    return image.crop((left, top, left + size, top + size))


def _eight_bit(image: Any) -> Any:
    """A Pillow image with 8 bits a channel: 16 bits are scaled, where Pillow would cut at 255.

    Raises:
        UserError: whole numbers of 32 bits, or floating-point ones, whose black and white are not known.
    """
    from PIL import Image

    if image.mode.startswith("I;16"):
        return Image.fromarray(eight_bit(torch.from_numpy(np.array(image).astype(np.int32))).numpy())
    if image.mode in ("I", "F"):
        raise UserError(
            f"pixels of mode {image.mode!r} have no known black and white: save it with 8 or 16 bits, or give an .npz "
            "of numbers"
        )
    return image.convert({"1": "L", "P": "RGB"}.get(image.mode, image.mode))


def to_tensor(image: Any) -> Tensor:
    """``(ch, h, w)`` uint8 of a Pillow image.

    Raises:
        UserError: pixels whose black and white are not known.
    """
    pixels = np.array(_eight_bit(image), dtype=np.uint8)
    return torch.from_numpy(pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1)))
