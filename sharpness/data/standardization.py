"""Mean and standard deviation per channel that standardise images."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Standardization:
    """``(x - mean) / std`` for pixels x in [0, 1], one number for each channel.

    >>> Standardization((0.5,), (0.25,)).channels
    1
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.mean)

    def __str__(self) -> str:
        mean, std = (", ".join(f"{v:.3f}" for v in values) for values in (self.mean, self.std))
        return f"mean {mean} and std {std}"
