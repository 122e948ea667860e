"""A pickle is a program: this runs one whose every instruction, name and size is among those that data need.

:func:`globals_of` reads the names a pickle asks for off its instructions. :class:`Machine` then runs it with functions
chosen by the caller in the place of what it names, and counts what they make.
"""

from __future__ import annotations

import _compat_pickle
import pickle
import pickletools
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from sharpness.untrusted.keys import check_key
from sharpness.untrusted.plain_values import PlainArray, PlainDtype
from sharpness.untrusted.refused import Allowance, Refused

INSTRUCTIONS = 2**20
"""Most instructions of a pickle that is read: each may take a hundred bytes of memory, and a tensor takes about 35."""

FREE, FACTOR = 64 * 2**20, 8
"""Bytes that a pickle may make of itself: so many, and so many times those of its file."""

_PUTS = ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT")
_GETS = ("GET", "BINGET", "LONG_BINGET")


def full_name(module: str, name: str) -> str:
    """The name of today for one that Python 2 may have written."""
    if (module, name) in _compat_pickle.NAME_MAPPING:
        module, name = _compat_pickle.NAME_MAPPING[module, name]
    elif module in _compat_pickle.IMPORT_MAPPING:
        module = _compat_pickle.IMPORT_MAPPING[module]
    return f"{module}.{name}"


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


_PythonUnpickler: Any = vars(pickle)["_Unpickler"]


class Instructions(dict[int, Any]):
    """The effects of the named instructions; ``why`` explains the refusal of others."""

    def __init__(self, names: str, why: str) -> None:
        codes = (getattr(pickle, name)[0] for name in names.split())
        super().__init__((code, _PythonUnpickler.dispatch[code]) for code in codes)
        self.why = why

    def __missing__(self, code: int) -> Any:
        name = next((opcode.name for opcode in pickletools.opcodes if ord(opcode.code) == code), "")
        raise Refused(
            f"uses the pickle instruction {name}, {self.why}" if name else "holds no instruction where one is"
        )


class Machine(_PythonUnpickler):
    """The Python unpickler, whose memo is a dict: the C one fills an array up to any index a file names.

    Args:
        stream: what it reads.
        resolve: what stands for a global, by its full name; it raises :class:`Refused` for all but a few.
        size: bytes of the file, which bound what the pickle may make of itself.
        encoding: of texts of Python 2, or ``bytes``.
    """

    dispatch: Instructions

    def __init__(self, stream: Any, resolve: Callable[[str], Any], size: int, encoding: str) -> None:
        super().__init__(stream, encoding=encoding)
        self.resolve, self.allowance = resolve, Allowance(FREE + FACTOR * size)

    def find_class(self, module: str, name: str) -> Any:
        return self.resolve(full_name(module, name))

    def persistent_load(self, saved: Any) -> Any:
        raise Refused("refers to what is not in it")

    def call(self) -> None:
        """Call a function that :attr:`resolve` chose."""
        arguments = self.stack.pop()
        function = self.stack[-1]
        if type(arguments) is not tuple or not callable(function):
            raise Refused(f"calls a {type(function).__name__}, which no data need")
        self.allowance.take(sum(map(_bytes, arguments)))
        self.stack[-1] = function(*arguments)

    def build(self) -> None:
        """Fill in an array, or what tells of one."""
        state = self.stack.pop()
        instance = self.stack[-1]
        if type(instance) not in (PlainArray, PlainDtype):
            raise Refused(f"fills in a {type(instance).__name__}, which no data need")
        self.allowance.take(sum(map(_bytes, state)) if type(state) is tuple else 0)
        instance.__setstate__(state)

    def set_item(self) -> None:
        """Put one value into a dict."""
        self._check_target(self.stack[-3])
        check_key(self.stack[-2])
        self.load_setitem()

    def set_items(self) -> None:
        """Put several into one; what the instruction takes, from the mark on, is the stack now."""
        self._check_target(self.metastack[-1][-1])
        for key in self.stack[::2]:
            check_key(key)
        self.load_setitems()

    def append(self) -> None:
        """Put one value into a list."""
        self._check_target(self.stack[-2], list)
        self.load_append()

    def appends(self) -> None:
        """Put several into one."""
        self._check_target(self.metastack[-1][-1], list)
        self.load_appends()

    def _check_target(self, target: Any, *kinds: type) -> None:
        if type(target) not in (kinds or (dict, OrderedDict, Counter)):
            raise Refused(f"puts values into a {type(target).__name__}, which no data need")


def instructions(names: str, why: str) -> Instructions:
    """Those named, of which the ones that call, fill and put are the careful ones of :class:`Machine`."""
    found = Instructions(names, why)
    careful = {
        pickle.REDUCE: Machine.call,
        pickle.BUILD: Machine.build,
        pickle.SETITEM: Machine.set_item,
        pickle.SETITEMS: Machine.set_items,
        pickle.APPEND: Machine.append,
        pickle.APPENDS: Machine.appends,
    }
    found.update({code[0]: does for code, does in careful.items() if code[0] in found})
    return found


def _bytes(value: Any) -> int:
    """About what a copy of a value takes."""
    if type(value) in (str, bytes, bytearray):
        return 4 * len(value)
    return 64 * len(value) if type(value) in (list, tuple, dict, set, OrderedDict, Counter) else 0
