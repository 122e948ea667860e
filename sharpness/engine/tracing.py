r"""Tracing: conversion of a module to the programs that the engine runs.

A module is traced by ``torch.fx`` and split in two: a *prologue* of values that only depend on parameters, which runs
once per product, and a *body*, which runs on every batch. BatchNorm in eval mode is folded: with ``s = gamma / sigma``
and ``t = beta + s (b - mu)`` from the prologue,

.. code-block:: text

    BN(x * w + b) = x * (s w) + t

is a single operation with the cost of a convolution. It is smooth in the original parameters, so derivatives by them
remain exact, and no batch needs the element-wise operations of BatchNorm. A BatchNorm that does not follow a
convolution becomes ``s x + t``.

Convolutions, linear layers, ReLU and sums have explicit rules; every other node of the graph becomes a ``Smooth``
operation. Values that do not depend on a parameter in scope are constants. What a forward pass computes from buffers
alone is part of the prologue too, because buffers change in training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import get_ident
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sharpness.engine.program import Traced, Untraceable
from sharpness.engine.program_builder import ProgramBuilder
from sharpness.engine.stateless import SWAPPING
from sharpness.engine.undisturbed import interrupts_held
from sharpness.errors import shown


def first_line(error: BaseException) -> str:
    """Return the type and the first line of an exception, as ``Type: message``."""
    return shown(f"{type(error).__name__}: {str(error)}".splitlines()[0].rstrip(": "), 160)


def structure(module: nn.Module) -> list[Any]:
    """Return the parts of a module on which a trace depends: submodules, their tensors and hooks, plain attributes.

    Buffers with a single number (``_is_setting``) count as attributes; in eval mode, no forward pass branches on the
    number of batches that a BatchNorm has seen.
    """
    plain = (bool, int, float, str)
    # During a call in another thread, a layer may have other tensors, which would look like a changed model.
    with SWAPPING:
        return [
            (
                id(m),
                [id(t) for t in (*m._parameters.values(), *m._buffers.values())],
                [*m._forward_hooks, *m._forward_pre_hooks],
                [(key, repr(value)) for key, value in vars(m).items() if isinstance(value, plain)],
                [
                    repr(t.item())
                    for key, t in m._buffers.items()
                    if t is not None and _is_setting(t)
                    if not (isinstance(m, _BatchNorm) and key == "num_batches_tracked")
                ],
            )
            for m in module.modules()
        ]


def _is_setting(buffer: Tensor) -> bool:
    """Return True for a single number on a CPU, which a forward pass may branch on and which is compared at no cost."""
    return buffer.numel() == 1 and buffer.device.type == "cpu"


def trace(module: nn.Module, sample: Tensor, in_scope: Sequence[Tensor]) -> Traced:
    """Trace a module in eval mode.

    Args:
        module: the module.
        sample: a few inputs, used to find the values that depend on parameters in scope.
        in_scope: parameters to differentiate by.

    Raises:
        Untraceable: control flow depends on data, values that are used elsewhere are changed in place, or the output is
            not a tensor.
    """
    try:
        graph = _graph(module)
    except Exception as error:
        raise Untraceable(f"torch.fx cannot trace it: {first_line(error)}") from error
    builder = ProgramBuilder(module, {id(p) for p in in_scope})
    for node in graph.nodes:
        builder.add(node)
    return builder.finish(sample)


def trace_whole(module: nn.Module, sample: Tensor) -> Traced:
    """Trace a module in eval mode with all weights in scope, including those of frozen parts, which are buffers."""
    frozen = [m._buffers.get(name) for m in module.modules() for name in ("weight", "bias")]
    weights = [t for t in (*module.parameters(), *frozen) if t is not None and t.is_floating_point()]
    return trace(module, sample, weights)


def _graph(module: nn.Module) -> fx.Graph:
    """Return the graph that torch.fx records; ``nn.Module``, which it patches process-wide, is always restored."""
    with interrupts_held():
        before = nn.Module.__call__, nn.Module.__getattr__
    try:
        return _Tracer().trace(module)
    finally:
        with interrupts_held():
            nn.Module.__call__, nn.Module.__getattr__ = before  # type: ignore[method-assign]


class _Buffer(fx.Proxy):
    """A buffer in a trace: its values are unknown, its shape and type are those that the traced structure has."""

    def __init__(self, node: fx.Node, tracer: fx.Tracer, tensor: Tensor) -> None:
        super().__init__(node, tracer)
        self.tensor = tensor

    shape = property(lambda self: self.tensor.shape)
    ndim = property(lambda self: self.tensor.ndim)
    dtype = property(lambda self: self.tensor.dtype)
    device = property(lambda self: self.tensor.device)

    def size(self, *axis: int) -> Any:
        return self.tensor.size(*axis)

    def dim(self) -> int:
        return self.tensor.dim()

    def numel(self) -> int:
        return self.tensor.numel()

    def __len__(self) -> int:
        return len(self.tensor)


class _Tracer(fx.Tracer):
    """A tracer that records what is computed from buffers, and only calls of its own thread: others run normally."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = get_ident()

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        return super().call_module(m, forward, args, kwargs) if get_ident() == self.thread else forward(*args, **kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if get_ident() != self.thread:
            return attr_val
        # Without a proxy, operations on buffers alone would run now, and a trace would keep their results as constants.
        if isinstance(attr_val, Tensor) and not isinstance(attr_val, nn.Parameter) and not _is_setting(attr_val):
            for name, buffer in self.root.named_buffers():
                if buffer is attr_val:
                    if name not in parameter_proxy_cache:
                        parameter_proxy_cache[name] = self.create_proxy(
                            "get_attr", name, (), {}, proxy_factory_fn=lambda node: _Buffer(node, self, attr_val)
                        )
                    return parameter_proxy_cache[name]
        return super().getattr(attr, attr_val, parameter_proxy_cache)
