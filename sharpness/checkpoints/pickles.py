"""Static analysis of a checkpoint's pickle before it is loaded.

``rehearse`` runs it with stand-ins that build nothing, call nothing and allocate nothing, so that a tensor which
claims more bytes than its storage holds is found before ``torch.load`` reads a byte of it.
"""

from __future__ import annotations

import math
import pickle
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch

from sharpness.checkpoints.powers import may_be_passed_over, power
from sharpness.errors import shown
from sharpness.untrusted.keys import with_keys
from sharpness.untrusted.machine import Machine, globals_of, instructions
from sharpness.untrusted.passed_over import PassedOver, rehearsed
from sharpness.untrusted.plain_values import PLAIN_GLOBALS, PlainNamespace, encode_latin1, is_shape
from sharpness.untrusted.refused import Refused

EXPANDED = 2**20
"""Bytes that a tensor may claim beyond its storage, by strides of zero."""

ITEM_SIZES = dict.fromkeys(("Double", "Long", "ComplexFloat"), 8) | dict.fromkeys(("Float", "Int", "QInt32"), 4)
ITEM_SIZES |= dict.fromkeys(("Half", "BFloat16", "Short"), 2) | {"ComplexDouble": 16}
ITEM_SIZES |= dict.fromkeys(("Byte", "Char", "Bool", "QInt8", "QUInt8", "Untyped"), 1)


FOREIGN = 64
"""Most classes of others that are passed over in one file."""

REMEDY = "save the weights alone, torch.save(model.state_dict(), PATH), where you trust it"

TOLD = 160
"""Most characters of what a file asks for in the line that refuses it."""


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


class Names:
    """The globals that a pickle may name, and what each becomes in a rehearsal.

    Args:
        foreign: whether objects of classes that are not known here are passed over, rather than refused.
    """

    def __init__(self, foreign: bool = False) -> None:
        self.foreign = foreign
        self.passed: dict[str, type[PassedOver]] = {}

    def __getitem__(self, name: str) -> Any:
        found = self.passed.get(name) or stand_in(name)
        if found is None and self.foreign and may_be_passed_over(name) and len(self.passed) < FOREIGN:
            found = self.passed[name] = rehearsed(name)
        if found is None:
            raise Refused(f"needs {shown(name)}, and nothing in it was run: {REMEDY}")
        return found

    def require(self, names: Iterator[str]) -> None:
        """Raise :class:`Refused` with the first few names that no checkpoint needs."""
        unknown = []
        for name in dict.fromkeys(names):
            try:
                self[name]
            except Refused:
                unknown.append(name)
        if unknown:
            clauses = [f"{shown(name, 60)} ({power(name)})" for name in unknown[:4]]
            while len(clauses) > 1 and sum(map(len, clauses)) > TOLD:
                clauses.pop()
            more = f" and {len(unknown) - len(clauses)} more" if len(unknown) > len(clauses) else ""
            raise Refused(f"needs {', '.join(clauses)}{more}, and nothing in it was run: {REMEDY}")


_OPCODES = (
    "PROTO STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINSTRING TUPLE "
    "TUPLE1 TUPLE2 TUPLE3 EMPTY_TUPLE EMPTY_LIST EMPTY_DICT EMPTY_SET APPEND APPENDS SETITEM SETITEMS BINGET "
    "LONG_BINGET BINPUT LONG_BINPUT GLOBAL NEWOBJ REDUCE BUILD BINPERSID"
)


class _Rehearsal(Machine):
    dispatch = instructions(_OPCODES, "which torch.save does not with its usual pickle_protocol, 2")
    storage: Callable[[tuple[Any, ...]], Storage]

    def persistent_load(self, saved: Any) -> Storage:
        return self.storage(saved)

    def _new(self) -> None:
        arguments, made = self.stack.pop(), self.stack.pop()
        if _is_passed_over(made) and type(arguments) is tuple:
            self.stack.append(made())
            return
        if made is not PlainNamespace or arguments != ():
            raise Refused("makes an object of a class, which no checkpoint needs")
        self.stack.append(PlainNamespace())

    def _call(self) -> None:
        function, arguments = self.stack[-2:]
        odd = type(arguments) is tuple and any(isinstance(a, PassedOver) or _is_passed_over(a) for a in arguments)
        if odd and not _is_passed_over(function):
            raise Refused(f"makes a tensor or a container of an object of a class that is not known here: {REMEDY}")
        self.call()
        if isinstance(self.stack[-1], Rebuilt):
            self.allowance.take(self.stack[-1].claimed)

    def _build(self) -> None:
        instance = self.stack[-2]
        if type(instance) is PlainNamespace or isinstance(instance, PassedOver):
            instance.__setstate__(self.stack.pop())
        elif type(instance) is OrderedDict:
            state = self.stack.pop()
            # Anything else could take the place of the dict's own methods.
            if type(state) is not dict or state.keys() != {"_metadata"}:
                raise Refused("gives a dict other attributes than those of a state dict")
        else:
            self.build()

    def _check_target(self, target: Any, *kinds: type) -> None:
        if not isinstance(target, PassedOver):
            super()._check_target(target, *kinds)

    dispatch[pickle.NEWOBJ[0]] = _new
    dispatch[pickle.REDUCE[0]] = _call
    dispatch[pickle.BUILD[0]] = _build


def _is_passed_over(made: Any) -> bool:
    return isinstance(made, type) and issubclass(made, PassedOver)


def rehearse(stream: Any, storage: Callable[[tuple[Any, ...]], Storage], size: int, names: Names) -> Any:
    """Run one pickle of ``stream`` with stand-ins.

    Args:
        stream: what is read.
        storage: answers for each storage that the pickle names.
        size: bytes of the file, which bound what it may make of itself.
        names: what stands for what the pickle names.

    Raises:
        Refused: something that no checkpoint needs.
        Exception: nearly any, of a damaged pickle.
    """
    rehearsal = _Rehearsal(stream, names.__getitem__, size, encoding="utf-8")
    rehearsal.storage = storage
    return rehearsal.load()


__all__ = ["REMEDY", "Inert", "Names", "Refused", "Storage", "globals_of", "rehearse", "shown"]
