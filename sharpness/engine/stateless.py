"""Calls of a module with other tensors in place of its parameters and buffers."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn

#: Held while a module has other tensors. Without this lock, a thread could restore tensors that another one has swapped
#: in, and a thread that checks whether the module is still the traced one could mistake it for another.
SWAPPING = RLock()


def called_with(
    module: nn.Module, tensors: Mapping[str, Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
) -> Any:
    """Call a module with other tensors, by name, also if its own are tied; its own are restored afterwards.

    torch's ``tie_weights`` swaps a tensor once for every name of its module. For a module registered under two names,
    it would restore the swapped-in tensor and so leave it in the model.

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
    """Return the tensors under all names of tied ones, but only under one name for each module."""
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
