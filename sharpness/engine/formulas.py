"""Functions of torch with a wrong second derivative, written out in operations that have a right one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """``g v / |v|``: torch 2.13 differentiates its fused version on a CPU wrongly the second time."""
    return v * (g / torch.norm_except_dim(v, 2, dim))


WRITTEN_OUT: dict[Callable[..., Any], Callable[..., Any]] = {torch._weight_norm: _weight_norm}


class WrittenOut(TorchFunctionMode):
    """A mode in which functions of ``WRITTEN_OUT`` are computed by their formulas, in the thread that entered it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return WRITTEN_OUT.get(func, func)(*args, **(kwargs or {}))
