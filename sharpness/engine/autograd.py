"""Vector-Jacobian products by torch's autograd, and functions of torch written out whose second derivative is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
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
    r""":math:`\sum_j v_j' \, \partial y_j / \partial x_i` for every input :math:`x_i`.

    ``torch.autograd.grad`` itself, without its check of shapes, which imports sympy: a second of every process.

    Args:
        outputs: y_j, with a graph.
        along: v_j, in the shapes of the outputs.
        create_graph: record the graph of the results, which keeps that of the outputs.
        retain_graph: keep the graph of the outputs.
        zeros: give zeros instead of None for inputs that no output depends on.

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
    """``g v / |v|``: torch 2.13 differentiates its fused version on a CPU wrongly the second time."""
    return v * (g / torch.norm_except_dim(v, 2, dim))


WRITTEN_OUT: dict[Callable[..., Any], Callable[..., Any]] = {torch._weight_norm: _weight_norm}


class WrittenOut(TorchFunctionMode):
    """A mode in which functions of ``WRITTEN_OUT`` are computed by their formulas, in the thread that entered it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return WRITTEN_OUT.get(func, func)(*args, **(kwargs or {}))
