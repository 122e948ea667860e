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
    """Images with one label each, or with two: weight ``lam`` on ``first`` and ``1 - lam`` on ``second``."""

    x: Tensor  # (n, channels, h, w)
    first: Tensor  # (n,)
    second: Tensor | None = None  # (n,)
    lam: float | Tensor = 1.0  # a scalar

    def __len__(self) -> int:
        return len(self.x)

    def rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return rows with one label each: indices into x (m,), labels (m,), and weights (m,) that sum to n.

        A mixed image becomes two rows, one for each of its labels.
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

    # The interface shared with ``Shards``: a batch is its own only shard.

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of images in each shard."""
        return (len(self),)

    def labels(self) -> Tensor:
        """Return the labels of all rows, including those of other processes."""
        return self.rows()[1]

    def parts(self, context: Context) -> list[tuple[Batch, Context]]:
        """Return the shards of this process, each with its context."""
        return [(self, context)]

    def whole(self, rows: Sequence[Tensor]) -> Batch:
        """Return the batch of all processes with ``rows`` (one tensor per shard of this process) in place of images."""
        return replace(self, x=rows[0])

    def gated(self, rows: Tensor) -> Tensor:
        """Return ``rows`` (m, ...), in the order of ``rows()`` of the whole batch, with a graph for this process's."""
        return rows

    def summed(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return sums over processes."""
        return list(tensors)

    def split(self, parts: int) -> list[Batch]:
        """Split into ``parts`` batches of nearly equal size, or into fewer if one would hold a single image."""
        parts = max(1, min(parts, len(self.x) // 2))
        seconds = [None] * parts if self.second is None else self.second.tensor_split(parts)
        images, firsts = self.x.tensor_split(parts), self.first.tensor_split(parts)
        return [Batch(x, one, two, self.lam) for x, one, two in zip(images, firsts, seconds, strict=True)]
