"""Images that are read when they are asked for, in the place of a tensor of all of them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sharpness.data.content import pixel_digests
from sharpness.data.standardization import Standardization

#: Bytes that a pass over all rows holds at a time.
PIECE = 2**23


class ImageSource(Protocol):
    """A source of labelled 8-bit images: arrays, image files, or a prepared file.

    A source may also have ``key``, a text that tells its content without reading it, ``digests(indices)``, uint64, of
    its pixels, and ``originals(indices)``, a list of images ``(ch, h, w)`` before they were resized and cropped.

    Attributes:
        labels: ``(n,)`` int64.
    """

    labels: Tensor

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray) -> Tensor:
        """The images at some indices, ``(len(indices), ch, h, w)`` uint8."""
        ...


class ArraySource:
    """Images in memory as a source.

    Args:
        images: ``(n, ch, h, w)`` uint8.
        labels: ``(n,)`` int64.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: np.ndarray) -> Tensor:
        """The images at some indices."""
        return self.images[torch.as_tensor(indices)]


@dataclass(frozen=True, eq=False, repr=False)
class Rows:
    """The images of a source at some indices, as rows of a tensor ``(n, ch, h, w)`` of which only parts are read.

    It stands where a tensor of all images would not fit: indexing, ``split`` and ``to`` are those of a tensor.
    Choosing rows (:meth:`take`) keeps their indices and copies no pixel.

    Attributes:
        source: where pixels come from.
        index: ``(n,)`` positions in the source.
        constants: what standardises the images; None leaves them as 8-bit numbers.
        dtype: of the rows, ``torch.uint8`` without ``constants``.
        device: where rows that are read end up.

    >>> images = torch.arange(8, dtype=torch.uint8).reshape(4, 1, 1, 2)
    >>> rows = Rows.of(ArraySource(images, torch.zeros(4, dtype=torch.int64))).take(torch.tensor([3, 0]))
    >>> rows.shape, rows[:1].tolist()
    (torch.Size([2, 1, 1, 2]), [[[[6, 7]]]])
    """

    source: Any
    index: np.ndarray
    image_shape: tuple[int, ...]
    constants: Standardization | None = None
    dtype: torch.dtype = torch.uint8
    device: torch.device = torch.device("cpu")

    @classmethod
    def of(cls, source: ImageSource) -> Rows:
        """All images of a source, of which the first is read."""
        shape = getattr(source, "image_shape", None) or tuple(source.read(np.zeros(1, dtype=np.int64)).shape[1:])
        return cls(source, np.arange(len(source)), tuple(shape))

    @property
    def shape(self) -> torch.Size:
        """``(n, ch, h, w)``."""
        return torch.Size((len(self.index), *self.image_shape))

    @property
    def ndim(self) -> int:
        """4."""
        return 1 + len(self.image_shape)

    def __len__(self) -> int:
        return len(self.index)

    def is_floating_point(self) -> bool:
        """True if the images are standardised."""
        return self.dtype.is_floating_point

    def is_inference(self) -> bool:
        """False: rows are read outside inference mode."""
        return False

    def __getitem__(self, which: slice | Tensor | np.ndarray | list[int]) -> Tensor:
        """Read some rows."""
        chosen = self.index[which.cpu().numpy() if isinstance(which, Tensor) else which]
        images = self.source.read(chosen).to(self.device)
        return images if self.constants is None else self.constants.apply(images).to(self.dtype)

    def take(self, indices: Tensor | np.ndarray) -> Rows:
        """The rows at some indices, none of which is read."""
        return replace(self, index=self.index[np.asarray(indices)])

    def split(self, size: int) -> list[Rows]:
        """Parts of ``size`` rows, none of which is read."""
        return [replace(self, index=self.index[i : i + size]) for i in range(0, len(self), size)]

    def tensor_split(self, parts: int) -> list[Rows]:
        """Parts of nearly equal length, none of which is read."""
        return [replace(self, index=part) for part in np.array_split(self.index, parts)]

    def to(self, where: torch.device | torch.dtype | str) -> Any:
        """Another precision, without reading, for a dtype; for a device the rows themselves, read."""
        if isinstance(where, torch.dtype):
            return replace(self, dtype=where)
        return self[:].to(where)

    def on(self, device: str | torch.device) -> Rows:
        """The same rows, which end up on a device when they are read."""
        return replace(self, device=torch.device(device))

    def standardized(self, constants: Standardization) -> Rows:
        """The same rows, standardised in float32 when they are read."""
        return replace(self, constants=constants, dtype=torch.float32)

    def chunks(self) -> Iterator[Tensor]:
        """All rows in pieces of :data:`PIECE` bytes in single precision, read one after the other."""
        for part in self.split(max(1, PIECE // (4 * math.prod(self.image_shape)))):
            yield part[:]

    def digests(self) -> np.ndarray:
        """Digests ``(n,)`` uint64 of the pixels of every image, by the source if it has them, else of what it reads."""
        if hasattr(self.source, "digests"):
            found: np.ndarray = self.source.digests(self.index)
            return found
        plain = replace(self, constants=None, dtype=torch.uint8)
        return np.concatenate([pixel_digests(part) for part in plain.chunks()])

    def content_sha256(self) -> str:
        """SHA-256 of the source's key and the indices, or of all pixels where the source has no key."""
        if hasattr(self.source, "key"):
            return hashlib.sha256(f"{self.source.key}\n".encode() + self.index.astype("<i8").tobytes()).hexdigest()
        digest = hashlib.sha256()
        for part in replace(self, constants=None, dtype=torch.uint8).chunks():
            digest.update(part.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def rows_at(images: Any, indices: Tensor) -> Any:
    """Some rows of a tensor, copied, or of :class:`Rows`, not read."""
    return images.take(indices.cpu()) if isinstance(images, Rows) else images[indices]


def pieces(images: Any) -> Iterator[Tensor]:
    """A tensor as it is, or :class:`Rows` in pieces."""
    return images.chunks() if isinstance(images, Rows) else iter((images,))
