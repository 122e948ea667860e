"""Detection of half precision inside a model whose weights are in full precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from sharpness.engine.modules import HALF, layer

#: The largest difference between two passes, relative to the largest loss, that may be rounding there.
ROUNDING = 2e-2


class _Watch(TorchFunctionMode):
    """Records the first function that turns numbers into half precision, with the module that runs it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        # Modules of TorchScript have no hooks, and are part of what calls them.
        self.names = {m: name for name, m in model.named_modules() if not isinstance(m, torch.jit.ScriptModule)}
        self.running, self.found = [model], ""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        # Not what is made of no numbers, such as a mask: it may be used for nothing that counts.
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
    """Notice half precision in the passes of a model: by autocast that it enters itself, or by conversions.

    Yields:
        A list that has at its end a description of the first one, such as "bfloat16 in layer 'fc' (Linear)", if any.
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
