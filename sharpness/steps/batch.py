"""Training batches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Images with one label each, or with two: weight ``lam`` on ``first``, the rest on ``second``."""

    x: Tensor  # (n, channels, h, w)
    first: Tensor  # (n,)
    second: Tensor | None = None  # (n,)
    lam: float | Tensor = 1.0  # a scalar

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
