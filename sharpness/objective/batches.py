"""Batches of samples, read lazily."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from sharpness.engine.class_sums import WeightedBatch


class Batches(Sequence[WeightedBatch]):
    """Inputs, targets and weights of parts of some samples, which are not in memory before they are asked for.

    Args:
        columns: of all samples; inputs may be rows that are read from a disk.
        indices: of the samples.
        size: of a batch, at most.
        device: where batches go.

    >>> x = torch.arange(5.0)
    >>> [batch[0].tolist() for batch in Batches((x, x, x), torch.tensor([4, 0, 2]), 2, torch.device("cpu"))]
    [[4.0, 0.0], [2.0]]
    """

    def __init__(self, columns: Sequence[Any], indices: Tensor, size: int, device: torch.device) -> None:
        self.columns, self.device = columns, device
        self.parts = [part for part in indices.split(size) if len(part)]

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: Any) -> Any:
        part = self.parts[number]
        return tuple(column[part].to(self.device) for column in self.columns)

    def __iter__(self) -> Iterator[WeightedBatch]:
        return (self[number] for number in range(len(self)))
