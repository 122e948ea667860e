"""Mean and standard deviation per channel that standardise images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpness.errors import UserError


@lru_cache(maxsize=64)
def channel_values(values: tuple[float, ...], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """One number per channel, (ch, 1, 1), made once per device: a copy to a GPU would wait for what runs there."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)[:, None, None]


def require_shares(mean: Sequence[float], std: Sequence[float]) -> None:
    """Refuse constants of pixels from 0 to 255, which would bring 8-bit images near a constant.

    Raises:
        UserError: a mean above 1.
    """
    if max(mean) > 1:
        raise UserError(f"mean {mean} and std {std} are of pixels in [0, 255]: divide them by 255")


@dataclass(frozen=True)
class Standardization:
    """``(x - mean) / std`` for pixels x in [0, 1], one number for each channel.

    >>> Standardization((0.5,), (0.25,)).channels
    1
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def given(cls, mean: Any, std: Any) -> Standardization | None:
        """The constants that a user gives, one number or one for each channel; None where none are given.

        Raises:
            UserError: one without the other, not equally many, or a standard deviation that is not positive.
        """
        if mean is None and std is None:
            return None
        if mean is None or std is None:
            raise UserError("give mean and std together, or neither")
        means, stds = (tuple(np.asarray(v, dtype=float).reshape(-1).tolist()) for v in (mean, std))
        if len(means) != len(stds) or not means or not (np.isfinite([means, stds]).all() and min(stds) > 0):
            raise UserError(f"mean {means} and std {stds}: give one of each for every channel, std above 0")
        return cls(means, stds)

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.mean)

    def apply(self, images: Tensor) -> Tensor:
        """``(x / 255 - mean) / std``, float32, for uint8 images ``(n, ch, h, w)`` on any device."""
        mean, std = (channel_values(tuple(values), images.device) for values in (self.mean, self.std))
        return images.to(torch.float32).div_(255).sub_(mean).div_(std)

    def __str__(self) -> str:
        mean, std = (", ".join(f"{v:.3f}" for v in values) for values in (self.mean, self.std))
        return f"mean {mean} and std {std}"
