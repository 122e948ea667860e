"""Temporary perturbations of weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn


@contextmanager
def perturbed(parameters: Sequence[Tensor], perturbation: Sequence[Tensor]) -> Iterator[None]:
    """Add ``perturbation`` to the parameters in place; restore their exact values at the end, also after an error.

    Autocast computes with copies of the weights in low precision, which it keeps until its outermost context ends. It
    forgets them here: all passes of a step may be inside one such context of the caller.
    """
    saved = [p.detach().clone() for p in parameters]
    try:
        with torch.no_grad():
            for p, e in zip(parameters, perturbation, strict=True):
                p.add_(e)
        torch.clear_autocast_cache()
        yield
    finally:
        with torch.no_grad():
            for p, old in zip(parameters, saved, strict=True):
                p.copy_(old)
        torch.clear_autocast_cache()


@contextmanager
def frozen_running_statistics(model: nn.Module) -> Iterator[None]:
    """Normalise with the statistics of the batch, as in training, without updating the running statistics.

    Otherwise, second passes at perturbed weights would count every batch twice.
    """
    names = ("track_running_stats", "running_mean", "running_var", "num_batches_tracked")
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    saved = [(m, name, getattr(m, name)) for m in layers for name in names]
    try:
        for m in layers:
            m.track_running_stats = False
            m.running_mean = m.running_var = m.num_batches_tracked = None
        yield
    finally:
        for m, name, value in saved:
            setattr(m, name, value)


def joint_norm(tensors: Iterable[Tensor]) -> Tensor:
    """Return the l2 norm of all tensors taken as one vector; some may be sparse, as gradients of embeddings can be."""
    # Indices of a sparse gradient may repeat; ``coalesce`` adds their values.
    dense = (t.coalesce().values() if t.is_sparse else t for t in tensors)
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(t) for t in dense]))


class SameNumbers:
    """States of random number generators, restored before the passes of a step so that all draw the same numbers.

    Args:
        generators: those of the batch, its shards and the loss; the global ones are added.
    """

    def __init__(self, *generators: torch.Generator) -> None:
        self._states: dict[torch.Generator, Tensor] = {}
        self.include(*generators, torch.default_generator)  # dropout draws from the global generators
        if torch.cuda.is_initialized() and not torch.cuda.is_current_stream_capturing():
            self.include(torch.cuda.default_generators[torch.cuda.current_device()])

    def include(self, *generators: torch.Generator) -> None:
        """Include generators with their present states, unless they are included already."""
        for generator in generators:
            self._states.setdefault(generator, generator.get_state())

    def again(self) -> None:
        """Restore all states."""
        for generator, state in self._states.items():
            generator.set_state(state)


@contextmanager
def own_numbers(generator: torch.Generator) -> Iterator[None]:
    """Seed torch's global generators, from which dropout draws, with a draw from ``generator``; restore them later."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        yield


class RunningStatistics:
    r"""BatchNorm's running statistics in a pass over shards: the mean of the updates that each shard makes.

    .. math:: r \leftarrow \frac{1}{V} \sum_s \big((1 - m)\, r + m\, b_s\big)

    with m the momentum and :math:`b_s` the statistics of shard s. A pass counts as one batch. For a batch that is not
    sharded, BatchNorm updates its statistics itself.

    Args:
        shards: V, the number of shards.
    """

    def __init__(self, model: nn.Module, shards: int) -> None:
        layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
        moving = [m for m in layers if m.track_running_stats and shards > 1]
        self._shards, self._buffers = shards, [b for m in moving for b in m.buffers(recurse=False)]
        self._before = [b.clone() for b in self._buffers]
        self.moved = [torch.zeros_like(b) for b in self._buffers]

    @contextmanager
    def of_shard(self, generator: torch.Generator) -> Iterator[None]:
        """Enclose the forward pass of a shard, or a part of it; its random numbers come from ``generator`` alone."""
        with own_numbers(generator) if self._shards > 1 else nullcontext():
            yield
        for buffer, before, moved in zip(self._buffers, self._before, self.moved, strict=True):
            moved += buffer - before
            buffer.data.copy_(before)  # in training mode, no backward pass reads the buffer

    def set(self, moved: Sequence[Tensor]) -> None:
        """Set the buffers to their mean over shards, from the sums of ``self.moved`` over processes."""
        for buffer, m in zip(self._buffers, moved, strict=True):
            buffer.data += (m / self._shards).to(buffer.dtype)
