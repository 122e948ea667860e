r"""The other two primitives: sums of gradients and of Hessian-vector products over samples, exact."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from sharpness.engine.class_sums import PerSampleLoss, WeightedBatch


def gradient_sum(
    forward: Callable[[Tensor], Tensor],
    parameters: Sequence[Tensor],
    batches: Iterable[WeightedBatch],
    loss: PerSampleLoss,
) -> Tensor:
    r""":math:`\sum_i a_i \nabla_w \ell_i`, flat, shape (k,), accumulated in float64."""
    total = _zeros(parameters)
    for x, y, a in batches:
        value = (a * loss(forward(x), y)).sum()
        total += _flat(torch.autograd.grad(value, parameters, materialize_grads=True)).double()
    return total


def hvp_sum(
    forward: Callable[[Tensor], Tensor],
    parameters: Sequence[Tensor],
    batches: Iterable[WeightedBatch],
    loss: PerSampleLoss,
    vector: Tensor,
) -> Tensor:
    r""":math:`\sum_i a_i \nabla_w^2 \ell_i \, v`, flat, shape (k,), accumulated in float64.

    The gradient of :math:`\nabla L \cdot v` (Pearlmutter 1994). Fused attention has no double backward, so
    attention runs with its math kernel.
    """
    total = _zeros(parameters)
    pieces = [v.view_as(p) for p, v in zip(parameters, vector.split([p.numel() for p in parameters]), strict=True)]
    for x, y, a in batches:
        with sdpa_kernel(SDPBackend.MATH):
            value = (a * loss(forward(x), y)).sum()
            first = torch.autograd.grad(value, parameters, create_graph=True, materialize_grads=True)
            slope = torch.stack([(g * v).sum() for g, v in zip(first, pieces, strict=True)]).sum()
            if not slope.requires_grad:
                continue
            total += _flat(torch.autograd.grad(slope, parameters, materialize_grads=True)).double()
    return total


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


def _zeros(parameters: Sequence[Tensor]) -> Tensor:
    size = sum(p.numel() for p in parameters)
    return torch.zeros(size, dtype=torch.float64, device=parameters[0].device)
