"""Global batches whose shards are divided among processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from sharpness.steps.batch import Batch
from sharpness.steps.context import Context


def alone(tensor: Tensor) -> Tensor:
    """Return the sum over a single process: the tensor itself."""
    return tensor


@dataclass(frozen=True)
class Shards:
    r"""A batch divided into V shards, of which this process holds consecutive ones.

    .. math:: L = \frac{\sum_s A_s L_s}{\sum_s A_s}, \qquad A_s = \sum_{i \in s} a_i

    with :math:`L_s` the loss of shard s alone. For a loss :math:`\sum_i a_i \ell_i / \sum_i a_i` this is the loss of
    the whole batch, except that BatchNorm, mixup and terms added by a method only combine images of the same shard.

    Attributes:
        mine: shards of this process.
        generators: random number generator of each of these shards.
        start: number of shards before those of this process.
        sizes: number of images in each of the V shards.
        first: (n,) labels of all images.
        total: function that sums a tensor over processes.
    """

    mine: tuple[Batch, ...]
    generators: tuple[Generator, ...]
    start: int
    sizes: tuple[int, ...]
    first: Tensor
    total: Callable[[Tensor], Tensor] = alone

    def __len__(self) -> int:
        return sum(self.sizes)

    @property
    def before(self) -> int:
        """Number of images in the shards before those of this process."""
        return sum(self.sizes[: self.start])

    def labels(self) -> Tensor:
        """Return the labels of all images; mixup partners come from the same shard, so this includes their labels."""
        return self.first

    def parts(self, context: Context) -> list[tuple[Batch, Context]]:
        """Return the shards of this process, each with a context that has its generator and records its weights."""
        contexts = (replace(context, generator=generator, sums=[]) for generator in self.generators)
        return list(zip(self.mine, contexts, strict=True))

    def whole(self, rows: Sequence[Tensor]) -> Batch:
        """Return the batch of all processes with ``rows`` (one tensor per shard of this process) in place of images.

        Rows of this process keep their graph; those of other processes are constants.
        """
        second = [part.second for part in self.mine if part.second is not None]
        return Batch(self.gathered(rows), self.first, self.gathered(second) if second else None, self.mine[0].lam)

    def gated(self, rows: Tensor) -> Tensor:
        """Return ``rows`` (m, ...), in the order of ``rows()`` of the whole batch, with a graph for this process's."""
        image = torch.arange(len(rows), device=rows.device) % len(self)
        own = (image >= self.before) & (image < self.before + sum(map(len, self.mine)))
        return torch.where(own.view(-1, *[1] * (rows.ndim - 1)), rows, rows.detach())

    def summed(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return sums over processes, in one call for all tensors; their shapes are the same in every process.

        The results have the memory layout of ``tensors``.
        """
        if self.total is alone or not tensors:
            return list(tensors)
        kind = tensors[0].dtype
        for tensor in tensors:
            kind = torch.promote_types(kind, tensor.dtype)
        flat = self.total(torch.cat([t.reshape(-1).to(kind) for t in tensors]))
        pieces = flat.split([t.numel() for t in tensors])
        return [torch.empty_like(t).copy_(piece.view(t.shape)) for t, piece in zip(tensors, pieces, strict=True)]

    def split(self, parts: int) -> list[Shards]:
        """Split every shard into ``parts``, fewer if one would hold a single image; return one ``Shards`` per part."""
        parts = max(1, min(parts, min(self.sizes) // 2))
        mine = [part.split(parts) for part in self.mine]
        first = [labels.tensor_split(parts) for labels in self.first.split(list(self.sizes))]
        return [
            replace(
                self,
                mine=tuple(one[j] for one in mine),
                sizes=tuple(len(one[j]) for one in first),
                first=torch.cat([one[j] for one in first]),
            )
            for j in range(parts)
        ]

    def gathered(self, rows: Sequence[Tensor]) -> Tensor:
        """Return the rows (n, ...) of all shards in order, from one tensor for each shard of this process."""
        own = torch.cat(list(rows))
        if self.total is alone:
            return own
        there = own.new_zeros(len(self), *own.shape[1:])
        there[self.before : self.before + len(own)] = own.detach()
        there = self.total(there)
        return torch.cat([there[: self.before], own, there[self.before + len(own) :]])
