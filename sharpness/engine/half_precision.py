"""Detection of computations in half precision inside a model whose weights are in full precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from sharpness.engine.modules import HALF, layer

#: Largest difference between two passes, relative to the largest loss, that counts as rounding in half precision.
ROUNDING = 2e-2


class _Watch(TorchFunctionMode):
    """Records the first function that converts numbers to half precision, and the module that calls it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        # TorchScript modules have no hooks; they count as part of their callers.
        self.names = {m: name for name, m in model.named_modules() if not isinstance(m, torch.jit.ScriptModule)}
        self.running, self.found = [model], ""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        # Results that are not computed from numbers, such as masks, may not affect the outputs.
        if not self.found and (half := _half(made)) and any(map(_is_real, tree_leaves((args, kwargs)))):
            module = self.running[-1]
            where = "the forward pass of " if next(module.children(), None) is not None else ""
            self.found = f"{half} in {where}{layer(self.names.get(module, ''), module)}"
        return made

    def enter(self, module: nn.Module, args: Any) -> None:
        self.running.append(module)

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self.running.pop()


@contextmanager
def half_noticed(model: nn.Module) -> Iterator[list[str]]:
    """Detect half precision in the passes of a model, by its own autocast or by conversions.

    Yields:
        A list. On exit, a description of the first occurrence is appended to it, such as "bfloat16 in layer 'fc'
        (Linear)", if there is any.
    """
    told: list[str] = []
    watch = _Watch(model)
    hooks = [m.register_forward_pre_hook(watch.enter) for m in watch.names]
    hooks += [m.register_forward_hook(watch.leave) for m in watch.names]
    try:
        with watch:
            yield told
    finally:
        for hook in hooks:
            hook.remove()
    told += filter(None, [watch.found])


def _half(made: Any) -> str | None:
    tensors = [made] if isinstance(made, Tensor) else tree_leaves(made) if isinstance(made, tuple | list) else []
    kinds = (t.dtype for t in tensors if isinstance(t, Tensor))
    return next((str(kind).removeprefix("torch.") for kind in kinds if kind in HALF), None)


def _is_real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
