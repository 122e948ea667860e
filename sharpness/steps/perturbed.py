"""Temporary perturbations of weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def perturbed(parameters: Sequence[Tensor], perturbation: Sequence[Tensor]) -> Iterator[None]:
    """Add ``perturbation`` to the parameters in place, and restore their exact values, also after an error."""
    saved = [p.detach().clone() for p in parameters]
    try:
        with torch.no_grad():
            for p, e in zip(parameters, perturbation, strict=True):
                p.add_(e)
        yield
    finally:
        with torch.no_grad():
            for p, old in zip(parameters, saved, strict=True):
                p.copy_(old)


@contextmanager
def frozen_running_statistics(model: nn.Module) -> Iterator[None]:
    """Normalise with the statistics of the batch, as in training, without updating the running statistics.

    Second passes at perturbed weights would otherwise count every batch twice.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    saved = [(m.track_running_stats, m.running_mean, m.running_var, m.num_batches_tracked) for m in layers]
    try:
        for m in layers:
            m.track_running_stats, m.running_mean, m.running_var, m.num_batches_tracked = (
                False,
                None,
                None,
                None,
            )
        yield
    finally:
        for m, (track, mean, var, batches) in zip(layers, saved, strict=True):
            m.track_running_stats, m.running_mean, m.running_var, m.num_batches_tracked = (
                track,
                mean,
                var,
                batches,
            )


def joint_norm(tensors: Iterable[Tensor]) -> Tensor:
    """The l2 norm of all tensors taken as one vector."""
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(t) for t in tensors]))
