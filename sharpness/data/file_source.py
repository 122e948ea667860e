"""Listed image files as a source of images, which are opened, resized and cropped on demand."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sharpness.data.list_files import ImageList
from sharpness.data.path_styles import Style, found_style
from sharpness.data.pictures import read_picture
from sharpness.errors import UserError

#: Images of a list that are looked for, to find the style of its paths.
TRIED = 64


@dataclass(frozen=True)
class Transform:
    """Resize an image to a shorter side of ``resize`` (default ``size``) and keep the central square of side ``size``.

    ``channels`` is 3, or 1 for grey images.

    >>> Transform(224, 256).words
    'shorter side 256, centre 224, RGB'
    """

    size: int
    resize: int | None = None
    channels: int = 3

    def __post_init__(self) -> None:
        if self.size < 1 or (self.resize is not None and self.resize < self.size):
            raise UserError(f"size {self.size} and resize {self.resize}: give sides of at least 1, resize no smaller")

    @property
    def words(self) -> str:
        """Description of the transform, which is part of the key of prepared images."""
        colours = "grey" if self.channels == 1 else "RGB"
        return f"shorter side {self.resize or self.size}, centre {self.size}, {colours}"

    @property
    def sides(self) -> dict[str, int]:
        """Both sides by name, as options of ``load_data``.

        >>> Transform(16).sides
        {'size': 16, 'resize': 16}
        """
        return {"size": self.size, "resize": self.resize or self.size}


def content_key(images: ImageList, transform: Transform, skipped: tuple[int, ...] = ()) -> str:
    """Key of the transformed images of a list, 64 hexadecimal digits, by the list's fingerprint."""
    text = f"{images.fingerprint} {len(images)} {transform.words} {skipped}"
    return hashlib.sha256(text.encode()).hexdigest()


class FileSource:
    """The files of a list below a root folder as a source of images.

    Args:
        images: the list.
        root: folder where its paths begin.
        transform: resize and crop.
        folders: name of the folder of each class, for path styles that need it.

    Raises:
        UserError: no file is found below the root in any path style; the message names the first.
    """

    def __init__(self, images: ImageList, root: Path, transform: Transform, folders: tuple[str, ...] = ()) -> None:
        self.images, self.root, self.transform, self.folders = images, root, transform, folders
        self.labels = torch.from_numpy(images.labels)
        self.style: Style = self._found_style()
        self.image_shape = (transform.channels, transform.size, transform.size)
        self._digests: dict[int, np.uint64] = {}

    @property
    def key(self) -> str:
        """See :func:`content_key`."""
        return content_key(self.images, self.transform)

    def __len__(self) -> int:
        return len(self.images)

    def _found_style(self) -> Style:
        """The style of the first image that is there, of some of the whole list, because images may be missing."""
        for index in map(int, np.linspace(0, len(self) - 1, min(len(self), TRIED))):
            with suppress(UserError):
                return found_style(self.root, self.images.names[index], self._folder(index), self.images.place(index))
        return found_style(self.root, self.images.names[0], self._folder(0), self.images.place(0))

    def _folder(self, index: int) -> str:
        label = int(self.images.labels[index])
        return self.folders[label] if 0 <= label < len(self.folders) else ""

    def path(self, index: int) -> Path:
        """The file of an image."""
        return self.root / self.style(self.images.names[index], self._folder(index))

    def one(self, index: int) -> tuple[Tensor, np.uint64]:
        """Read an image ``(channels, size, size)``, and the digest of all pixels of its file.

        Raises:
            UserError: the file is missing or damaged; the message names its line in the list.
        """
        return self._picture(index, self.transform.size, self.transform.resize)

    def _picture(self, index: int, size: int | None, resize: int | None) -> tuple[Tensor, np.uint64]:
        try:
            return read_picture(self.path(index), size, resize, self.transform.channels)
        except UserError as error:
            raise UserError(f"{self.images.place(index)}: {error}") from None

    def read(self, indices: np.ndarray) -> Tensor:
        """Read the images at some indices."""
        found = torch.empty((len(indices), *self.image_shape), dtype=torch.uint8)
        for i, index in enumerate(indices):
            found[i], self._digests[int(index)] = self.one(int(index))
        return found

    def digests(self, indices: np.ndarray) -> np.ndarray:
        """Digests ``(n,)`` uint64 of all pixels of the files; files that were not read before are read now."""
        for index in map(int, indices):
            if index not in self._digests:
                self._digests[index] = self.one(index)[1]
        return np.array([self._digests[int(i)] for i in indices], dtype=np.uint64)

    def originals(self, indices: np.ndarray) -> list[Tensor]:
        """Read whole images ``(channels, h, w)``, without resize and crop."""
        return [self._picture(int(index), None, None)[0] for index in indices]


class _Chunks(Dataset[Any]):
    """Chunks of a source, each decoded by one worker; errors of single images are returned, not raised."""

    def __init__(self, source: FileSource, chunks: list[np.ndarray], pixels: bool) -> None:
        self.source, self.chunks, self.pixels = source, chunks, pixels

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[tuple[int, str]]]:
        images, digests, kept, wrong = [], [], [], []
        for index in map(int, self.chunks[number]):
            try:
                image, digest = self.source.one(index)
            except UserError as error:
                wrong.append((index, str(error)))
                continue
            images += [image.numpy()] if self.pixels else []
            digests.append(digest)
            kept.append(index)
        shape = (0, *self.source.image_shape)
        stacked = np.stack(images) if images else np.empty(shape, dtype=np.uint8)
        return stacked, np.array(digests, dtype=np.uint64), np.array(kept, dtype=np.int64), wrong


def decoded(
    source: FileSource, chunks: list[np.ndarray], workers: int = 0, pixels: bool = True
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, list[tuple[int, str]]]]:
    """Decode chunk after chunk; yields images, digests and indices of readable files, and (index, message) of others.

    Args:
        workers: number of processes that decode; 0 decodes in this one.
        pixels: whether to return the images themselves.
    """
    loader: DataLoader[Any] = DataLoader(
        _Chunks(source, chunks, pixels), batch_size=None, num_workers=workers, collate_fn=None, shuffle=False
    )
    for images, digests, kept, wrong in loader:
        yield tuple(np.asarray(part) for part in (images, digests, kept)) + (wrong,)
