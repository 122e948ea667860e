"""Content of samples, independent of their normalisation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpness.data.standardization import Standardization
from sharpness.errors import UserError
from sharpness.identity import NAMES, PIXELS, VALUES, SampleIdentity

#: Largest distance from an integer of a pixel after undoing the normalisation. Half precision causes about a tenth,
#: wrong constants any distance.
SLACK = 0.25
CHUNK = 1024


class Content:
    """A digest of the content of every sample, computed lazily.

    Attributes:
        by: :data:`PIXELS`, :data:`VALUES` or :data:`NAMES`.
        mean: mean per channel, for pixels in [0, 1]; None if it is not known.
        std: standard deviation per channel, given with ``mean``.
    """

    def __init__(
        self,
        by: str,
        compute: Callable[[], np.ndarray],
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
    ) -> None:
        self.by, self.mean, self.std = by, mean, std
        self._compute = compute

    @cached_property
    def digests(self) -> np.ndarray:
        """(n,) uint64."""
        return self._compute()

    def __getstate__(self) -> dict[str, Any]:
        """Other processes get the digests instead of the data they are computed from."""
        return vars(self) | {"_compute": None, "digests": self.digests}

    def take(self, indices: Tensor) -> Content:
        """The content of the samples at some indices."""
        return Content(self.by, lambda: self.digests[indices.cpu().numpy()], self.mean, self.std)

    def identity(self, classes: Tensor, weights: Tensor, targets: Tensor | None = None) -> SampleIdentity:
        """The identity of samples with classes and weights, (n,) each.

        Args:
            targets: targets (n, ...), if they are not the classes.
        """
        digests = self.digests
        if targets is not None:
            digests = digests * np.uint64(3) + value_digests(targets)
        equal = bool((weights == weights[0]).all())
        return SampleIdentity(self.by, classes.numpy(), digests, None if equal else weights.double().numpy())

    @classmethod
    def of(cls, data: Any, x: Tensor, names: Sequence[Any] | None = None, mean: Any = None, std: Any = None) -> Content:
        """The content of ``data.content`` if it exists, otherwise that of the inputs.

        Args:
            x: the inputs, (n, ...), before they are converted to the model's precision.
            names: (n,) names that identify the samples instead of their inputs.
            mean: mean per channel, for pixels in [0, 1], that was subtracted from the inputs.
            std: standard deviation per channel by which the inputs were divided.

        Raises:
            UserError: mean and std for data that have their own, or that do not lead back to 8-bit pixels; or another
                number of names than samples.
        """
        known: Content | None = getattr(data, "content", None)
        if known is not None and (mean is not None or std is not None):
            raise UserError(f"mean, std: a {type(data).__name__} knows its own, leave them out")
        given = Standardization.given(mean, std)
        constants = (known.mean, known.std) if known else (given.mean, given.std) if given else (None, None)
        if names is not None:
            if isinstance(names, str | bytes) or len(names) != len(x):
                raise UserError(f"names: {len(names)} for {len(x)} samples: give one for each")
            listed = [str(name) for name in (names.tolist() if hasattr(names, "tolist") else names)]
            return cls(NAMES, lambda: _digests([name.encode() for name in listed]), *constants)
        if known is not None:
            return known
        if given:
            undone(x[:16], given.mean, given.std)  # refuses wrong constants before any work is done
            return cls(
                PIXELS, lambda: _by_chunk(x, lambda part: _pixels(undone(part, given.mean, given.std))), *constants
            )
        if x.dtype == torch.uint8:
            return cls(PIXELS, lambda: pixel_digests(x))
        return cls(VALUES, lambda: value_digests(x))


def pixel_digests(images: Tensor) -> np.ndarray:
    """Digests (n,) uint64 of 8-bit images ``(n, ...)``; an image with three equal channels counts as grey, with one.

    >>> grey = torch.arange(12, dtype=torch.uint8).view(2, 1, 2, 3)
    >>> bool((pixel_digests(grey) == pixel_digests(grey.expand(2, 3, 2, 3))).all())
    True
    """
    return _by_chunk(images, _pixels)


def value_digests(values: Tensor) -> np.ndarray:
    """Digests (n,) uint64 of rows of numbers ``(n, ...)`` in single precision, so copies of other dtypes agree.

    >>> x = torch.tensor([[0.0, 1.5], [-0.0, 1.5]])
    >>> len(set(value_digests(x).tolist()) | set(value_digests(x.double()).tolist()))
    1
    """
    return _by_chunk(values, lambda part: list(_plain(part).reshape(len(part), -1).contiguous().numpy()))


def _by_chunk(rows: Tensor, convert: Callable[[Tensor], Sequence[Any]]) -> np.ndarray:
    """Digests of rows, converted in pieces because a second copy of a large set may not fit in memory."""
    return np.concatenate([_digests(convert(part.detach().cpu())) for part in rows.split(CHUNK)])


def _digests(contents: Sequence[Any]) -> np.ndarray:
    return np.frombuffer(b"".join(hashlib.sha256(one).digest()[:8] for one in contents), dtype="<u8").astype(np.uint64)


def _pixels(images: Tensor) -> list[np.ndarray]:
    if images.ndim == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = images.movedim(3, 1)
    table = images.reshape(len(images), -1).contiguous().numpy()
    rows = list(table)
    if images.ndim > 2 and images.shape[1] == 3:
        parts = table.reshape(len(images), 3, -1)
        for i in np.flatnonzero((parts[:, :1] == parts[:, 1:]).all((1, 2))):
            rows[i] = parts[i, 0]
    return rows


def _plain(values: Tensor) -> Tensor:
    if values.is_complex():
        values = torch.view_as_real(values)
    return values.float() + 0.0 if values.is_floating_point() else values.long()  # + 0.0 turns -0.0 into 0.0


def undone(x: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Undo a normalisation: 8-bit pixels (n, ch, h w), or in the shape of ``x`` if there is a single mean."""
    channels = len(mean)
    if x.ndim > 2 and x.shape[1] != channels and x.shape[-1] == channels:
        x = x.movedim(-1, 1)
    numbers = x.reshape(len(x), -1)
    if numbers.shape[1] % channels:
        raise UserError(f"mean of {channels} channels and inputs of shape {tuple(x.shape[1:])}: give one each")
    m, s = (torch.tensor(v, dtype=torch.float64)[:, None] for v in (mean, std))
    raw = (numbers.double().reshape(len(x), channels, -1) * s + m) * 255
    whole = raw.round().clamp(0, 255)
    off = float((raw - whole).abs().max())
    if not off <= SLACK:
        raise UserError(
            f"mean {mean} and std {std} do not lead from the inputs back to 8-bit pixels, but up to {off:.3g} of a "
            "grey level beside: give those that were applied, or, where inputs are no such images, names=, one for each"
        )
    return whole.to(torch.uint8).reshape(x.shape if channels == 1 else (len(x), channels, -1))
