"""Functions of torch with a wrong second derivative, or none, written out in operations that have a right one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """``g v / |v|``: torch 2.13 differentiates its fused version on a CPU wrongly the second time."""
    return v * (g / torch.norm_except_dim(v, 2, dim))


def _embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """Sums or means of rows by bag, of which torch 2.13 has no second derivative; nor has the maximum any here."""
    options = per_sample_weights, include_last_offset, padding_idx
    if mode == "max":
        return F.embedding_bag(input, weight, offsets, max_norm, norm_type, scale_grad_by_freq, mode, sparse, *options)
    flat = input.reshape(-1)
    rows = F.embedding(flat, weight, None, max_norm, norm_type, scale_grad_by_freq)
    a = rows.new_ones(len(flat)) if per_sample_weights is None else per_sample_weights.reshape(-1)
    if padding_idx is not None:
        a = a * (flat != padding_idx % len(weight))
    if offsets is None:
        offsets = torch.arange(0, len(flat), input.shape[1], device=flat.device)
    elif include_last_offset:
        offsets = offsets[:-1]
    bag = torch.searchsorted(offsets, torch.arange(len(flat), device=flat.device).to(offsets), right=True) - 1
    total = rows.new_zeros(len(offsets), rows.shape[1]).index_add(0, bag, a[:, None] * rows)
    if mode == "sum":
        return total
    return total / rows.new_zeros(len(offsets)).index_add(0, bag, a).clamp_min(1)[:, None]


WRITTEN_OUT: dict[Callable[..., Any], Callable[..., Any]] = {
    torch._weight_norm: _weight_norm,
    F.embedding_bag: _embedding_bag,
}


class WrittenOut(TorchFunctionMode):
    """A mode in which functions of ``WRITTEN_OUT`` are computed by their formulas, in the thread that entered it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return WRITTEN_OUT.get(func, func)(*args, **(kwargs or {}))
