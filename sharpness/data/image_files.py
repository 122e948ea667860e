"""Image files in class folders or lists, with the same resize and crop for every model."""

from __future__ import annotations

import gzip
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sharpness.data.arrays import MOST_CLASSES
from sharpness.data.labels import first_of_each
from sharpness.data.pictures import read_picture
from sharpness.errors import UserError, shown
from sharpness.untrusted.refused import Refused
from sharpness.untrusted.regular_files import open_regular

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")

LIST = 2**30
"""Longest list that is read, in bytes."""

FREE, FACTOR = 16 * 2**20, 16
"""A compressed list may unpack to ``FREE`` bytes plus ``FACTOR`` times its size."""

BLOCK = 2**16
MOST_IMAGES = 2**21
"""Largest number of lines of a list; each takes about a hundred bytes of memory."""


@dataclass(frozen=True)
class ImageFiles:
    """Names ``(n,)`` relative to a folder and labels ``(n,)`` of image files, and class names if they are known."""

    base: Path
    names: Sequence[str]
    labels: Sequence[int]
    class_names: tuple[str, ...] | None = None

    def path(self, index: int) -> Path:
        """The path of the file with this index."""
        return self.base / self.names[index]

    def limit_per_class(self, n: int) -> ImageFiles:
        """The first ``n`` files of each class, in the order of the list."""
        kept = first_of_each(torch.tensor(self.labels), n).tolist()
        return ImageFiles(self.base, [self.names[i] for i in kept], [self.labels[i] for i in kept], self.class_names)


def is_image(path: Path, folder: Path) -> bool:
    """True for a name of an image without a hidden part below ``folder``.

    Programs leave copies of images in hidden files and folders (``.ipynb_checkpoints``, ``._1.jpg``).

    >>> [is_image(Path("images", name), Path("images")) for name in ("cat/1.JPG", "cat/._1.jpg", ".old/1.jpg")]
    [True, False, False]
    """
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return path.suffix.lower() in SUFFIXES and not hidden


def class_folders(folder: Path, class_names: Sequence[str] | None = None) -> ImageFiles:
    """Find images in one folder per class; labels follow ``class_names``, by default the sorted folder names.

    Raises:
        UserError: no class folders, a class folder without images, duplicate class names, or a folder that is not
            among them.
    """
    folders = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise UserError(f"{folder} has no folders: put the images of each class into a folder of its own")
    names = tuple(map(str, class_names)) if class_names is not None else tuple(folders)
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise UserError(f"class_names has {twice!r} twice: give each class a name of its own")
    strange = [name for name in folders if name not in names]
    if strange:
        raise UserError(f"{folder / strange[0]} is none of the {len(names)} classes named: {', '.join(names[:5])}, ...")
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        if name not in folders:
            continue
        found = sorted(p for p in (folder / name).rglob("*") if is_image(p, folder) and p.is_file())
        if not found:
            raise UserError(f"{folder / name} holds no images ({', '.join(SUFFIXES[:4])}, ...): add some or remove it")
        files += [str(p.relative_to(folder)) for p in found]
        labels += [label] * len(found)
    return ImageFiles(folder, files, labels, names)


def listed(path: Path, root: Path | None = None) -> ImageFiles:
    """Read a list with ``relative/path label`` on each line, plain or gzipped, with paths relative to ``root``.

    Raises:
        UserError: a line of another form, no lines, or a missing first file; the message names the line.
    """
    base = root if root is not None else path.parent
    names, labels, numbers = parsed_lines(path, list_lines(path))
    if not (base / names[0]).is_file():
        raise UserError(
            f"{path} line {numbers[0]}: no image {shown(str(base / names[0]), 120)}: say with root= where the list's "
            "paths begin"
        )
    return ImageFiles(base, names, labels)


def parsed_lines(path: Path, lines: Iterable[str], lowest: int = 0) -> tuple[list[str], list[int], list[int]]:
    """Names, labels and line numbers of the images of a list; empty lines are skipped.

    Args:
        path: path of the list, for messages.
        lowest: the smallest allowed label, -1 for an open set.

    Raises:
        UserError: a line that is not ``path label``, a label out of range, no lines, or too many lines.
    """
    names: list[str] = []
    labels: list[int] = []
    numbers: list[int] = []
    known: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if number > MOST_IMAGES:
            raise UserError(f"{path} has more than {MOST_IMAGES:,} lines: split it")
        if not line.strip():
            continue
        name, _, label = line.strip().replace("\t", " ").rpartition(" ")
        unknown = lowest < 0 and label == str(lowest)
        if not name or "\0" in name or not (unknown or (label.isdecimal() and label.isascii())):
            told = shown(line.strip(), 60)
            raise UserError(f"{path} line {number} is {told!r}: write 'path label' with a label from {lowest} on")
        if len(label) > 20 or int(label) >= MOST_CLASSES:
            raise UserError(
                f"{path} line {number}: label {label[:24]} is not below {MOST_CLASSES:,}: number the classes from 0"
            )
        name = name.strip()
        # Repeated names share one string.
        names.append(known.setdefault(name, name))
        labels.append(int(label))
        numbers.append(number)
    if not names:
        raise UserError(f"{path} lists no images: write 'path label' on each line")
    return names, labels, numbers


def list_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file, plain or gzipped, without line ends; the last one may be empty.

    Raises:
        UserError: the file cannot be read, is not text, or unpacks to far more than its size.
    """
    try:
        file, size = open_regular(path, LIST)
        compressed = path.suffix == ".gz"
        left = FREE + FACTOR * size if compressed else size
        with file, gzip.open(file) if compressed else file as lines:
            rest, mark = b"", BOM_UTF8  # Windows editors put this mark before the first line
            while block := lines.read(BLOCK):
                left -= len(block)
                block, mark = block.removeprefix(mark), b""
                if left < 0:
                    raise Refused("unfolds into far more than it holds: unpack it")
                *whole, rest = (rest + block).split(b"\n")
                if len(rest) > BLOCK:
                    raise Refused(f"has a line of more than {BLOCK:,} bytes")
                for line in whole:
                    yield line.decode("utf-8")
            yield rest.decode("utf-8")
    except Refused as error:
        raise UserError(f"cannot read the list {path}: it {error}") from None
    except (UnicodeDecodeError, EOFError, OSError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UserError(f"cannot read the list {path}: {reason}") from None


def read_files(files: ImageFiles, *, size: int | None, resize: int | None, channels: int) -> tuple[Tensor, np.ndarray]:
    """Read all images, ``(n, channels, h, w)`` uint8, and digests ``(n,)`` of the pixels of their files.

    Args:
        files: the files.
        size: side of the central square that is kept; None keeps whole images.
        resize: the shorter side before that crop, by default ``size``; bilinear, with the long side rounded down.
        channels: 3 for colour, 1 for grey.

    Raises:
        UserError: a file that is missing or not an image, or images of different sizes without ``size``.
    """
    images: Tensor | None = None
    digests = np.empty(len(files.names), dtype=np.uint64)
    for i in range(len(files.names)):
        path = files.path(i)
        image, digests[i] = read_picture(path, size, resize, channels)
        if images is None:
            images = _room(len(files.names), image)
        if image.shape != images.shape[1:]:
            here, first = ("x".join(map(str, s)) for s in (image.shape[1:], images.shape[2:]))
            raise UserError(f"{path} is {here} pixels and {files.path(0)} is {first}: give size= to make them alike")
        images[i] = image
    assert images is not None
    return images, digests


def _room(n: int, image: Tensor) -> Tensor:
    """Allocate a tensor for ``n`` images of the shape of ``image``."""
    try:
        return torch.empty((n, *image.shape), dtype=torch.uint8)
    except RuntimeError:
        needed = n * image.numel() / 2**30
        raise UserError(
            f"{n:,} images of {tuple(image.shape)} take {needed:,.0f} GiB, more than there is: give size=, or fewer "
            "with limit_per_class="
        ) from None
