"""Call a module with other tensors in the place of its parameters and buffers."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn

#: Held while a module has other tensors. Without it, threads that use the module would put back what another one has
#: swapped in, and one that looks whether the module is still the one that was traced would take it for another.
SWAPPING = RLock()


def called_with(
    module: nn.Module, tensors: Mapping[str, Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
) -> Any:
    """Call a module with other tensors, by name, also where its own are tied; its own are back afterwards.

    torch's ``tie_weights`` swaps a tensor once for each name of its module: of a module that stands under two names it
    would put back what it had swapped in, and leave the model with it.

    >>> layer, x = nn.Linear(1, 1, bias=False), torch.ones(1, 1)
    >>> model = nn.Sequential(layer, layer)
    >>> _ = nn.init.constant_(layer.weight, 2.0)
    >>> called_with(model, {"0.weight": torch.full((1, 1), 3.0)}, (x,)).item(), model(x).item()
    (9.0, 4.0)
    """
    with SWAPPING:
        return torch.func.functional_call(
            module, _everywhere(module, tensors), args, None if kwargs is None else dict(kwargs), tie_weights=False
        )


def _everywhere(module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under all names that a tied one has, but under one name of each module."""
    places: dict[int, list[str]] = {}
    for prefix, inner in module.named_modules():
        own = (named(recurse=False, remove_duplicate=False) for named in (inner.named_parameters, inner.named_buffers))
        for name, tensor in chain.from_iterable(own):
            places.setdefault(id(tensor), []).append(f"{prefix}.{name}" if prefix else name)
    found = dict(tensors)
    for names in places.values():
        if len(names) > 1 and (given := next((name for name in names if name in tensors), None)) is not None:
            found |= {name: tensors[given] for name in names if name not in tensors}
    return found
