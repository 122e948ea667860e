r"""Tracing: from a module to the programs that the engine runs.

A module is traced by ``torch.fx`` and split in two: a *prologue* of what depends on parameters alone, run once per
product, and a *body* that runs on every batch. BatchNorm in eval mode is folded: with ``s = gamma / sigma`` and
``t = beta + s (b - mu)`` from the prologue,

.. code-block:: text

    BN(x * w + b) = x * (s w) + t

is one operation with a convolution's cost, smooth in the original parameters, so that derivatives by them stay exact
and the element-wise work of BatchNorm is gone from every batch. A BatchNorm that follows no convolution becomes
``s x + t``.

Convolutions, linear layers, ReLU and sums have explicit rules; every other node of the graph is a
``Smooth`` one. Values no parameter in scope reaches are constants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import get_ident
from typing import Any

from torch import Tensor, fx, nn

from sharpness.engine.program import Traced, Untraceable
from sharpness.engine.program_builder import ProgramBuilder
from sharpness.engine.stateless import SWAPPING
from sharpness.engine.undisturbed import interrupts_held
from sharpness.errors import shown


def first_line(error: BaseException) -> str:
    """The type and the first line of an exception, as ``Type: message``."""
    return shown(f"{type(error).__name__}: {str(error)}".splitlines()[0].rstrip(": "), 160)


def structure(module: nn.Module) -> list[Any]:
    """The parts of a module that a trace is valid for: submodules, their tensors and hooks, and plain attributes.

    Single numbers among the buffers count as attributes: a forward pass may branch on them.
    """
    plain = (bool, int, float, str)
    # Another thread may have other tensors in a layer for a call of it, which would pass for a changed model.
    with SWAPPING:
        return [
            (
                id(m),
                [id(t) for t in (*m._parameters.values(), *m._buffers.values())],
                [*m._forward_hooks, *m._forward_pre_hooks],
                [(key, repr(value)) for key, value in vars(m).items() if isinstance(value, plain)],
                [
                    repr(t.item())
                    for t in m._buffers.values()
                    if t is not None and t.numel() == 1 and t.device.type == "cpu"
                ],
            )
            for m in module.modules()
        ]


def trace(module: nn.Module, sample: Tensor, in_scope: Sequence[Tensor]) -> Traced:
    """Trace a module in eval mode.

    Args:
        sample: a few inputs, from which it is learned what a parameter reaches.
        in_scope: the parameters that derivatives are taken by.

    Raises:
        Untraceable: control flow that depends on data, values changed in place that are used elsewhere, outputs that
            are no tensor.
    """
    try:
        graph = _graph(module)
    except Exception as error:
        raise Untraceable(f"torch.fx cannot trace it: {first_line(error)}") from error
    builder = ProgramBuilder(module, {id(p) for p in in_scope})
    for node in graph.nodes:
        builder.add(node)
    return builder.finish(sample)


def _graph(module: nn.Module) -> fx.Graph:
    """The graph that torch.fx records of a call; ``nn.Module``, which it patches process-wide, is always restored."""
    with interrupts_held():
        before = nn.Module.__call__, nn.Module.__getattr__
    try:
        return _Tracer().trace(module)
    finally:
        with interrupts_held():
            nn.Module.__call__, nn.Module.__getattr__ = before  # type: ignore[method-assign]


class _Tracer(fx.Tracer):
    """A tracer that records the calls of its own thread; those of other threads run as usual."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = get_ident()

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        return super().call_module(m, forward, args, kwargs) if get_ident() == self.thread else forward(*args, **kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if get_ident() != self.thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)
