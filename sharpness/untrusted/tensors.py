"""Stand-ins for tensors in the rehearsal of a pickle: they allocate nothing and are checked against their storages.

A tensor that claims more bytes than its storage holds is found before ``torch.load`` reads a byte of it.
"""

from __future__ import annotations

import math
import re
from collections import Counter, OrderedDict
from typing import Any

import torch

from sharpness.untrusted.keys import with_keys
from sharpness.untrusted.plain_values import PLAIN_GLOBALS, encode_latin1, is_shape
from sharpness.untrusted.refused import Refused

EXPANDED = 2**20
"""Bytes that a tensor may claim beyond its storage, by strides of zero."""

ITEM_SIZES = dict.fromkeys(("Double", "Long", "ComplexFloat"), 8) | dict.fromkeys(("Float", "Int", "QInt32"), 4)
ITEM_SIZES |= dict.fromkeys(("Half", "BFloat16", "Short"), 2) | {"ComplexDouble": 16}
ITEM_SIZES |= dict.fromkeys(("Byte", "Char", "Bool", "QInt8", "QUInt8", "Untyped"), 1)


class Inert:
    """Stands for something that is never called, only named."""

    def __init__(self, name: str, item_size: int = 0) -> None:
        self.name, self.item_size = name, item_size


class Storage:
    """Stands for ``bytes`` of numbers that lie elsewhere in the file."""

    def __init__(self, item_size: int, size: int) -> None:
        self.item_size, self.size = item_size, size


class Rebuilt:
    """Stands for a tensor that passed its checks, of so many bytes beyond those that were counted already."""

    def __init__(self, claimed: int = 0) -> None:
        self.claimed = claimed


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Rebuilt:
    if not isinstance(storage, Storage) or not is_shape((offset,)):
        raise Refused("describes a tensor that is none")
    size, stride = (tuple(n) if isinstance(n, list) else n for n in (size, stride))
    if not is_shape(size) or not is_shape(stride) or len(size) != len(stride):
        raise Refused("describes a tensor whose shape or strides are none")
    item = next((r.item_size for r in rest if isinstance(r, Inert) and r.item_size), storage.item_size)
    reach = offset + 1 + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) if all(size) else offset
    claimed = item * math.prod(max(n, 1) for n in size)
    if reach * item > storage.size or claimed > max(storage.size, EXPANDED):
        raise Refused(f"declares a tensor of {_number(claimed)} bytes and holds {storage.size:,} bytes of it")
    return Rebuilt(claimed)


def _number(n: int) -> str:
    return f"{n:,}" if n < 2**62 else "over 2^62"


def _parameter(data: Any, *rest: Any) -> Rebuilt:
    if not isinstance(data, Rebuilt):
        raise Refused("makes a parameter of something that is no tensor")
    return Rebuilt()


def _parameter_with_state(data: Any, requires_grad: Any, hooks: Any, state: Any) -> Any:
    _check_attributes(state)
    return _parameter(data)


def _check_attributes(state: Any) -> None:
    if type(state) is not dict or any(type(n) is not str or hasattr(torch.nn.Parameter, n) for n in state):
        raise Refused("puts other things in the place of a tensor's own attributes")


def _from_type(rebuild: Any, kind: Any, arguments: Any, state: Any) -> Any:
    if rebuild not in (_tensor, _parameter) or not (isinstance(kind, Inert) and kind.name == "torch.Tensor"):
        raise Refused("makes a tensor of an unknown type")
    _check_attributes(state)
    return rebuild(*arguments)


def _bytearray(*given: Any) -> bytes:
    if len(given) > 2 or (len(given) == 1 and not isinstance(given[0], bytes)):
        raise Refused("makes a bytearray of something else than bytes")
    return encode_latin1(*given) if len(given) == 2 else b"".join(given)


CALLABLE: dict[str, Any] = {
    "collections.OrderedDict": with_keys(OrderedDict, lambda pair: pair[0]),
    "collections.Counter": with_keys(Counter),
    "builtins.set": with_keys(set),
    "builtins.complex": complex,
    "builtins.bytearray": _bytearray,
    "_codecs.encode": encode_latin1,
    "torch.Size": tuple,
    "torch.device": lambda *given: Inert("device"),
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter_with_state,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    **PLAIN_GLOBALS,
}
_STORAGE = re.compile(r"torch\.(?:cuda\.|storage\.)?(\w+)Storage")
_DTYPE = re.compile(r"torch\.(?:bool|bfloat16|half|float|double|u?int(8|16|32|64)|(?:float|complex)(16|32|64|128))")


def stand_in(name: str) -> Any:
    """The stand-in for a global in a rehearsal, or None where no checkpoint needs it."""
    if name in CALLABLE:
        return CALLABLE[name]
    storage, dtype = _STORAGE.fullmatch(name), _DTYPE.fullmatch(name)
    if storage and storage[1] in ITEM_SIZES:
        return Inert(name, ITEM_SIZES[storage[1]])
    if dtype:
        return Inert(name, int(dtype[1] or dtype[2] or 0) // 8)
    return Inert(name) if name in ("torch.Tensor", "torch.nn.parameter.Parameter") else None
