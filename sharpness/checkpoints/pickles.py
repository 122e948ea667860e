"""What a pickle would do, told without doing it.

A pickle is a program. :func:`globals_of` reads the names it asks for off its instructions; :func:`rehearse` then runs
it with stand-ins that build nothing, call nothing and allocate nothing, so that a tensor which claims more bytes than
its storage holds is seen before ``torch.load`` reads a byte of it.
"""

from __future__ import annotations

import _compat_pickle
import math
import pickle
import pickletools
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch

from sharpness.checkpoints.keys import check_key, with_keys
from sharpness.checkpoints.plain_values import PLAIN_GLOBALS, PlainArray, PlainDtype, PlainNamespace, encode_latin1
from sharpness.checkpoints.powers import power
from sharpness.errors import shown

EXPANDED = 2**20
"""Bytes that a tensor may claim beyond its storage, by strides of zero."""

ITEM_SIZES = dict.fromkeys(("Double", "Long", "ComplexFloat"), 8) | dict.fromkeys(("Float", "Int", "QInt32"), 4)
ITEM_SIZES |= dict.fromkeys(("Half", "BFloat16", "Short"), 2) | {"ComplexDouble": 16}
ITEM_SIZES |= dict.fromkeys(("Byte", "Char", "Bool", "QInt8", "QUInt8", "Untyped"), 1)

INSTRUCTIONS = 2**20
"""Most instructions of a pickle that is read: each may take a hundred bytes of memory, and a tensor takes about 35."""


class Refused(Exception):
    """A pickle asks for what no checkpoint needs; the message completes ``cannot read FILE: it ...``."""


class Inert:
    """Stands for something that is never called, only named."""

    def __init__(self, name: str, item_size: int = 0) -> None:
        self.name, self.item_size = name, item_size


class Storage:
    """Stands for ``bytes`` of numbers that lie elsewhere in the file."""

    def __init__(self, item_size: int, size: int) -> None:
        self.item_size, self.size = item_size, size


class Rebuilt:
    """Stands for a tensor that passed its checks."""


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Rebuilt:
    numbers = [offset, *size, *stride]
    if not isinstance(storage, Storage) or len(size) != len(stride) or any(type(n) is not int for n in numbers):
        raise Refused("describes a tensor that is none")
    if min(numbers) < 0 or max(numbers) >= 2**62:
        raise Refused(f"describes a tensor of shape {tuple(size)}, which is none")
    item = next((r.item_size for r in rest if isinstance(r, Inert) and r.item_size), storage.item_size)
    reach = offset + 1 + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) if all(size) else offset
    claimed = item * math.prod(max(n, 1) for n in size)
    if reach * item > storage.size or claimed > max(storage.size, EXPANDED):
        raise Refused(
            f"declares a tensor of shape {tuple(size)} ({claimed:,} bytes) and holds {storage.size:,} bytes of it"
        )
    return Rebuilt()


def _parameter(data: Any, *rest: Any) -> Rebuilt:
    if not isinstance(data, Rebuilt):
        raise Refused("makes a parameter of something that is no tensor")
    return data


def _parameter_with_state(data: Any, requires_grad: Any, hooks: Any, state: Any) -> Any:
    _check_attributes(state)
    return _parameter(data)


def _check_attributes(state: Any) -> None:
    if type(state) is not dict or any(hasattr(torch.nn.Parameter, str(name)) for name in state):
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
    """What a global becomes in a rehearsal, or None where no checkpoint needs it."""
    if name in CALLABLE:
        return CALLABLE[name]
    storage, dtype = _STORAGE.fullmatch(name), _DTYPE.fullmatch(name)
    if storage and storage[1] in ITEM_SIZES:
        return Inert(name, ITEM_SIZES[storage[1]])
    if dtype:
        return Inert(name, int(dtype[1] or dtype[2] or 0) // 8)
    return Inert(name) if name in ("torch.Tensor", "torch.nn.parameter.Parameter") else None


def full_name(module: str, name: str) -> str:
    """The name of today for one that Python 2 may have written."""
    if (module, name) in _compat_pickle.NAME_MAPPING:
        module, name = _compat_pickle.NAME_MAPPING[module, name]
    elif module in _compat_pickle.IMPORT_MAPPING:
        module = _compat_pickle.IMPORT_MAPPING[module]
    return f"{module}.{name}"


_PUTS = ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT")
_GETS = ("GET", "BINGET", "LONG_BINGET")


def globals_of(stream: Any) -> Iterator[str]:
    """Names that one pickle of ``stream`` asks for, in order.

    Raises:
        ValueError: the instructions end early or are none.
        Refused: there are more than :data:`INSTRUCTIONS`.
    """
    texts: list[str] = []
    memo: dict[Any, str | None] = {}
    top: str | None = None
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if count >= INSTRUCTIONS:
            raise Refused(f"holds a pickle of more than {INSTRUCTIONS:,} instructions, which no weights need")
        if opcode.name in _PUTS:
            memo[len(memo) if argument is None else argument] = top
            continue
        if opcode.name == "FRAME":
            continue
        top = memo.get(argument) if opcode.name in _GETS else argument if isinstance(argument, str) else None
        if opcode.name in ("GLOBAL", "INST"):
            yield full_name(*str(argument).split(" ", 1))
        elif opcode.name == "STACK_GLOBAL":
            yield full_name(*texts[-2:]) if len(texts) > 1 else "a name made up while loading"
        elif opcode.name.startswith("EXT"):
            yield "a name of the extension registry"
        elif top is not None:
            texts.append(top)


def refuse_globals(names: Iterator[str]) -> None:
    """Raise :class:`Refused` with the first few names that no checkpoint needs."""
    unknown = list(dict.fromkeys(name for name in names if stand_in(name) is None))
    if unknown:
        told = ", ".join(f"{shown(name)} ({power(name)})" for name in unknown[:4])
        more = f" and {len(unknown) - 4} more" if len(unknown) > 4 else ""
        raise Refused(f"needs {told}{more}, and nothing in it was run")


_OPCODES = (
    "PROTO STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINSTRING TUPLE "
    "TUPLE1 TUPLE2 TUPLE3 EMPTY_TUPLE EMPTY_LIST EMPTY_DICT EMPTY_SET APPEND APPENDS SETITEM SETITEMS BINGET "
    "LONG_BINGET BINPUT LONG_BINPUT GLOBAL NEWOBJ REDUCE BUILD BINPERSID"
)

_PythonUnpickler: Any = vars(pickle)["_Unpickler"]


class _Instructions(dict[int, Any]):
    """What each instruction does, of those that ``torch.save`` writes."""

    def __missing__(self, code: int) -> Any:
        name = next(opcode.name for opcode in pickletools.opcodes if ord(opcode.code) == code)
        raise Refused(
            f"uses the pickle instruction {name}, which torch.save does not with its usual pickle_protocol, 2"
        )


class _Rehearsal(_PythonUnpickler):
    """The Python unpickler, whose memo is a dict: the C one fills an array up to any index a file names."""

    dispatch = _Instructions(
        (getattr(pickle, name)[0], _PythonUnpickler.dispatch[getattr(pickle, name)[0]]) for name in _OPCODES.split()
    )

    def find_class(self, module: str, name: str) -> Any:
        found = stand_in(full_name(module, name))
        if found is None:
            raise Refused(f"needs {shown(full_name(module, name))}, and nothing in it was run")
        return found

    def _new(self) -> None:
        arguments, made = self.stack.pop(), self.stack.pop()
        if made is not PlainNamespace or arguments != ():
            raise Refused("makes an object of a class, which no checkpoint needs")
        self.stack.append(PlainNamespace())

    def _build(self) -> None:
        state = self.stack.pop()
        instance = self.stack[-1]
        if type(instance) in (PlainArray, PlainDtype, PlainNamespace):
            instance.__setstate__(state)
        elif type(instance) is not OrderedDict:
            raise Refused(f"fills in a {type(instance).__name__}, which no checkpoint needs")

    def _set_item(self) -> None:
        check_key(self.stack[-2])
        self.load_setitem()

    def _set_items(self) -> None:
        # What the instruction takes, from the mark on, is the stack now.
        for key in self.stack[::2]:
            check_key(key)
        self.load_setitems()

    dispatch[pickle.SETITEM[0]] = _set_item
    dispatch[pickle.SETITEMS[0]] = _set_items
    dispatch[pickle.NEWOBJ[0]] = _new
    dispatch[pickle.BUILD[0]] = _build


def rehearse(stream: Any, storage: Callable[[tuple[Any, ...]], Storage]) -> Any:
    """Run one pickle of ``stream`` with stand-ins; ``storage`` answers for each storage that it names.

    Raises:
        Refused: something that no checkpoint needs.
        Exception: nearly any, of a damaged pickle.
    """
    rehearsal = _Rehearsal(stream, encoding="utf-8")
    rehearsal.persistent_load = storage
    return rehearsal.load()


__all__ = ["Refused", "Storage", "globals_of", "refuse_globals", "rehearse", "shown"]
