"""A second device where there is none: tensors that say they are elsewhere, and refuse to meet those of the CPU.

They are computed on the CPU, with the same bits. So what runs on them mixes no devices, asks no generator of the CPU
for numbers elsewhere, and makes no array of what was not brought to the CPU first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

#: What the tensors say; of torch's own devices this is the one that every build knows and autograd runs anywhere.
NAME = "meta"
aten = torch.ops.aten
#: What copies from one device to the other.
COPIES = {aten._to_copy, aten.copy_}
#: What takes indices of the CPU.
INDEXING = {aten.index, aten.index_put_, aten.index_put, aten._index_put_impl_, aten._unsafe_index}


class Elsewhere(Tensor):
    """A tensor of the CPU that says it is elsewhere."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> Elsewhere:
        made = Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, layout=inner.layout, device=NAME
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(function, args, kwargs or {})

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("a tensor that is elsewhere is no array: call .cpu() first")

    def tolist(self) -> Any:
        return self.inner.tolist()

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def untyped_storage(self) -> Any:
        return self.inner.untyped_storage()

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self.numpy()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Elsewhere({self.inner})"


class Pretence(TorchDispatchMode):
    """Makes what is asked for elsewhere."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(function, args, kwargs or {})


def leaves_of(value: Any) -> Iterator[Any]:
    """What is in lists and tuples; torch's own trees take most of the time of small operations."""
    if isinstance(value, list | tuple):
        for one in value:
            yield from leaves_of(one)
    else:
        yield value


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """The same lists and tuples of what a function returns for each leaf."""
    if isinstance(value, list | tuple):
        return type(value)(mapped(function, one) for one in value)
    return function(value)


def inner(value: Any) -> Any:
    """The tensor of the CPU, of one that is elsewhere."""
    return value.inner if isinstance(value, Elsewhere) else value


def run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation, on the CPU; what comes of tensors that are elsewhere is elsewhere.

    Raises:
        RuntimeError: tensors of two devices, or a generator of the CPU for numbers elsewhere.
    """
    leaves = list(leaves_of((args, tuple(kwargs.values()))))
    tensors = [t for t in leaves if isinstance(t, Tensor)]
    away = [t for t in tensors if isinstance(t, Elsewhere)]
    packet = function.overloadpacket
    here = [t for t in tensors if not isinstance(t, Elsewhere) and t.ndim]
    if packet in INDEXING and away and isinstance(args[0], Elsewhere):
        here = [t for t in here if t.dtype.is_floating_point]
    if away and here and packet not in COPIES:
        raise RuntimeError(f"Expected all tensors to be on the same device: {function} of one elsewhere and one here")
    asked = kwargs.get("device")
    goes = bool(away) if asked is None else torch.device(asked).type == NAME
    if packet is aten.copy_:
        goes = isinstance(args[0], Elsewhere)
    if goes and any(isinstance(leaf, torch.Generator) for leaf in leaves):
        raise RuntimeError(f"Expected a generator of this device: {function} with one of the CPU")
    plain_args, plain_kwargs = mapped(inner, args), {name: mapped(inner, value) for name, value in kwargs.items()}
    if asked is not None and torch.device(asked).type == NAME:
        plain_kwargs = {**plain_kwargs, "device": torch.device("cpu")}
    with torch.utils._python_dispatch._disable_current_modes():
        result = function(*plain_args, **plain_kwargs)
    wrappers = {id(t.inner): t for t in away}

    def wrap(t: Any) -> Any:
        if not isinstance(t, Tensor) or not goes:
            return t
        return wrappers.get(id(t)) if id(t) in wrappers else Elsewhere(t)

    return mapped(wrap, result)


@contextmanager
def pretence() -> Iterator[torch.device]:
    """The device that there is inside."""
    autocast = torch.autocast

    def allowed(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return autocast("cpu" if device_type == NAME else device_type, *args, **kwargs)

    def moved(make: Any) -> Any:
        """Of torch's functions that take numbers of Python, which are lost on the device that the tensors name."""

        def function(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Any:
            if device is None or torch.device(device).type != NAME or isinstance(data, Elsewhere):
                return make(data, *args, **kwargs)
            return make(data, *args, **kwargs).to(NAME)

        return function

    def refused(*args: Any) -> Any:
        raise RuntimeError("forward derivatives of tensors that pretend end the process")

    with pytest.MonkeyPatch.context() as patch, Pretence():
        patch.setattr(torch, "autocast", allowed)
        patch.setattr(torch, "tensor", moved(torch.tensor))
        patch.setattr(torch, "as_tensor", moved(torch.as_tensor))
        patch.setattr("sharpness.engine.double_backward._along_twice", refused)
        yield torch.device(NAME)
