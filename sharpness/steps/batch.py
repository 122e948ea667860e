"""Training batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from sharpness.steps.context import Context


@dataclass(frozen=True)
class Batch:
    """Images with one label each, or with two: weight ``lam`` on ``first``, the rest on ``second``."""

    x: Tensor  # (n, channels, h, w)
    first: Tensor  # (n,)
    second: Tensor | None = None  # (n,)
    lam: float | Tensor = 1.0  # a scalar

    def __len__(self) -> int:
        return len(self.x)

    def rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """The batch as rows with one label: indices into x (m,), labels (m,), weights (m,) that sum to n.

        A mixed image is two rows, one for each of its labels.
        """
        index = torch.arange(len(self.x), device=self.x.device)
        ones = torch.ones(len(self.x), device=self.x.device)
        if self.second is None:
            return index, self.first, ones
        return (
            torch.cat([index, index]),
            torch.cat([self.first, self.second]),
            torch.cat([self.lam * ones, (1 - self.lam) * ones]),
        )

    # What follows is the interface that a batch shares with ``Shards``: a batch is its own only shard.

    @property
    def sizes(self) -> tuple[int, ...]:
        """Images of all shards."""
        return (len(self),)

    def labels(self) -> Tensor:
        """Labels of all rows, whatever process has them."""
        return self.rows()[1]

    def parts(self, context: Context) -> list[tuple[Batch, Context]]:
        """The shards of this process, each with its context."""
        return [(self, context)]

    def whole(self, rows: Sequence[Tensor]) -> Batch:
        """The batch of all processes with ``rows`` (one tensor a shard of this process) in the place of images."""
        return replace(self, x=rows[0])

    def gated(self, rows: Tensor) -> Tensor:
        """``rows`` (m, ...), in the order of ``rows()`` of the whole batch, with a graph for those of this process."""
        return rows

    def summed(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Sums over processes."""
        return list(tensors)

    def split(self, parts: int) -> list[Batch]:
        """``parts`` of nearly equal size, fewer if one would hold a single image."""
        parts = max(1, min(parts, len(self.x) // 2))
        seconds = [None] * parts if self.second is None else self.second.tensor_split(parts)
        images, firsts = self.x.tensor_split(parts), self.first.tensor_split(parts)
        return [Batch(x, one, two, self.lam) for x, one, two in zip(images, firsts, seconds, strict=True)]
