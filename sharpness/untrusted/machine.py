"""The unpickler of files of unknown origin: every instruction, name and size of a pickle is one that data need.

A pickle is a program. :func:`globals_of` reads the names that it asks for off its instructions, without running them.
:class:`Machine` then runs it with functions chosen by the caller in the place of those names, and counts the bytes that
they make. CIFAR's files and checkpoints differ in the instructions and names that they need, and in nothing else.
"""

from __future__ import annotations

import _compat_pickle
import pickle
import pickletools
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from sharpness.untrusted.keys import check_key
from sharpness.untrusted.passed_over import PassedOver
from sharpness.untrusted.plain_values import ForeignDtype, PlainArray, PlainDtype, PlainNamespace
from sharpness.untrusted.refused import REMEDY, Allowance, Refused
from sharpness.untrusted.tensors import Rebuilt

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


class Machine(_PythonUnpickler):
    """The Python unpickler, whose memo is a dict: the C one fills an array up to any index a file names.

    Args:
        stream: what it reads.
        instructions: those that a pickle of this kind needs.
        resolve: what stands for a global, by its full name; it raises :class:`Refused` for all but a few.
        size: bytes of the file, which bound what the pickle may make of itself.
        storage: what stands for a storage that the pickle refers to.
    """

    def __init__(
        self,
        stream: Any,
        instructions: Instructions,
        resolve: Callable[[str], Any],
        size: int,
        storage: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(stream, encoding=instructions.encoding)
        self.dispatch, self.resolve, self.storage = instructions, resolve, storage
        self.allowance = Allowance(FREE + FACTOR * size)

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a global."""
        return self.resolve(full_name(module, name))

    def persistent_load(self, saved: Any) -> Any:
        """The stand-in for a storage."""
        if self.storage is None:
            raise Refused("refers to what is not in it")
        return self.storage(saved)

    def run_reduce(self) -> None:
        """Call a function that :attr:`resolve` chose."""
        arguments = self.stack.pop()
        function = self.stack[-1]
        foreign = type(arguments) is tuple and any(isinstance(a, PassedOver) or _is_passed_over(a) for a in arguments)
        # What was passed over says nothing that a tensor or container could be made of.
        if foreign and not _is_passed_over(function):
            raise Refused(f"makes a tensor or a container of an object of a class that is not known here: {REMEDY}")
        if type(arguments) is not tuple or not callable(function):
            raise Refused(f"calls a {type(function).__name__}, which no data need")
        self.allowance.take(sum(map(_bytes, arguments)))
        made = self.stack[-1] = function(*arguments)
        if isinstance(made, Rebuilt):
            self.allowance.take(made.claimed)

    def run_newobj(self) -> None:
        """Make an object of a class that is passed over, or parsed arguments; no other class is made."""
        arguments, kind = self.stack.pop(), self.stack.pop()
        if not (_is_passed_over(kind) and type(arguments) is tuple) and (kind is not PlainNamespace or arguments != ()):
            raise Refused("makes an object of a class, which no checkpoint needs")
        self.stack.append(kind())

    def run_build(self) -> None:
        """Fill in an array, parsed arguments, the notes of a state dict, or what was passed over."""
        state = self.stack.pop()
        instance = self.stack[-1]
        if type(instance) is OrderedDict:
            # Anything else could take the place of the dict's own methods.
            if type(state) is not dict or state.keys() != {"_metadata"}:
                raise Refused("gives a dict other attributes than those of a state dict")
        elif type(instance) is PlainNamespace or isinstance(instance, PassedOver):
            instance.__setstate__(state)
        elif type(instance) in (PlainArray, PlainDtype, ForeignDtype):
            self.allowance.take(sum(map(_bytes, state)) if type(state) is tuple else 0)
            instance.__setstate__(state)
        else:
            raise Refused(f"fills in a {type(instance).__name__}, which no data need")

    def run_setitem(self) -> None:
        """Put one value into a dict."""
        self._check_target(self.stack[-3])
        check_key(self.stack[-2])
        self.load_setitem()

    def run_setitems(self) -> None:
        """Put several values into a dict; the stack now holds the items from the mark on."""
        self._check_target(self.metastack[-1][-1])
        for key in self.stack[::2]:
            check_key(key)
        self.load_setitems()

    def run_append(self) -> None:
        """Put one value into a list."""
        self._check_target(self.stack[-2], list)
        self.load_append()

    def run_appends(self) -> None:
        """Put several values into a list."""
        self._check_target(self.metastack[-1][-1], list)
        self.load_appends()

    def _check_target(self, target: Any, *kinds: type) -> None:
        if type(target) not in (kinds or (dict, OrderedDict, Counter)) and not isinstance(target, PassedOver):
            raise Refused(f"puts values into a {type(target).__name__}, which no data need")


class Instructions(dict[int, Any]):
    """Allowed instructions of a kind of pickle, and their implementations.

    Those that call, fill and put are the careful ones of :class:`Machine`; the others are the unpickler's own.

    Args:
        names: of the instructions.
        why: the end of the line that refuses another one.
        encoding: of texts of Python 2, or ``bytes``.
    """

    def __init__(self, names: str, why: str, encoding: str) -> None:
        for name in names.split():
            code = getattr(pickle, name)[0]
            self[code] = getattr(Machine, f"run_{name.lower()}", None) or _PythonUnpickler.dispatch[code]
        self.why, self.encoding = why, encoding

    def __missing__(self, code: int) -> Any:
        name = next((opcode.name for opcode in pickletools.opcodes if ord(opcode.code) == code), "")
        raise Refused(
            f"uses the pickle instruction {name}, {self.why}" if name else "holds no instruction where one is"
        )


WEIGHTS = Instructions(
    "PROTO STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINSTRING TUPLE "
    "TUPLE1 TUPLE2 TUPLE3 EMPTY_TUPLE EMPTY_LIST EMPTY_DICT EMPTY_SET APPEND APPENDS SETITEM SETITEMS BINGET "
    "LONG_BINGET BINPUT LONG_BINPUT GLOBAL NEWOBJ REDUCE BUILD BINPERSID",
    "which torch.save does not with its usual pickle_protocol, 2: save it again, torch.save(content, PATH)",
    encoding="utf-8",
)
"""What ``torch.save`` writes."""

ARRAYS = Instructions(
    "PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE INT LONG FLOAT BININT BININT1 BININT2 LONG1 BINFLOAT "
    "STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES "
    "BINBYTES8 TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_TUPLE LIST EMPTY_LIST DICT EMPTY_DICT APPEND APPENDS SETITEM SETITEMS "
    "GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL REDUCE BUILD",
    "which no data file needs",
    encoding="bytes",
)
"""What ``pickle`` writes of containers, text and NumPy arrays, in Python 2 as well."""


def _is_passed_over(made: Any) -> bool:
    return isinstance(made, type) and issubclass(made, PassedOver)


def _bytes(value: Any) -> int:
    """Approximate size of a copy of a value, in bytes."""
    if type(value) in (str, bytes, bytearray):
        return 4 * len(value)
    return 64 * len(value) if type(value) in (list, tuple, dict, set, OrderedDict, Counter) else 0
