"""Vector-Jacobian products by autograd, and formulas for torch functions without a correct second derivative."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_PLAIN = (Tensor, nn.Parameter)


def pulled(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    along: Sequence[Tensor],
    create_graph: bool = False,
    retain_graph: bool = False,
    zeros: bool = False,
) -> tuple[Any, ...]:
    r"""Compute :math:`\sum_j v_j' \, \partial y_j / \partial x_i` for every input :math:`x_i`.

    Same as ``torch.autograd.grad``, but without its check of shapes, which imports sympy and so costs every process a
    second.

    Args:
        outputs: y_j, with a graph.
        inputs: x_i.
        along: v_j, in the shapes of the outputs.
        create_graph: record the graph of the results; this also keeps the graph of the outputs.
        retain_graph: keep the graph of the outputs.
        zeros: return zeros instead of None for inputs that no output depends on.

    >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> pulled([x * x], [x], [torch.tensor([1.0, 10.0])])
    (tensor([ 2., 40.]),)
    """
    retain_graph = retain_graph or create_graph
    run = getattr(torch.autograd.graph, "_engine_run_backward", None)
    if run is None or not all(type(t) in _PLAIN for t in (*outputs, *inputs, *along)):
        return torch.autograd.grad(
            outputs, inputs, along, retain_graph, create_graph, allow_unused=True, materialize_grads=zeros
        )
    found = run(tuple(outputs), tuple(along), retain_graph, create_graph, tuple(inputs), True, accumulate_grad=False)
    if not zeros:
        return tuple(found)
    pairs = zip(found, inputs, strict=True)
    return tuple(torch.zeros_like(x, requires_grad=create_graph) if t is None else t for t, x in pairs)


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """Compute ``g v / |v|``: the second derivative of the fused CPU version is wrong in torch 2.13."""
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
    """Compute sums or means of rows by bag: torch 2.13 has no second derivative of these. The maximum has none here."""
    options = per_sample_weights, include_last_offset, padding_idx
    if mode == "max":
        return F.embedding_bag(input, weight, offsets, max_norm, norm_type, scale_grad_by_freq, mode, sparse, *options)
    # One row per index. For indices (n, L) the bags are rows; for a flat list they start at the offsets.
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
    """A mode that computes the functions in ``WRITTEN_OUT`` by their formulas, in the thread that entered it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return WRITTEN_OUT.get(func, func)(*args, **(kwargs or {}))
