"""NumPy values and parsed arguments in a pickle, rebuilt here: their own unpickling trusts what a file says of them."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

_NUMBERS_AND_TEXT = re.compile(r"[|<>=]?([biufc])([0-9]{1,2})|[|<>=]?([SU])([0-9]{1,4})")


def encode_latin1(text: str, encoding: str = "latin1") -> bytes:
    """How protocol 2 spells bytes.

    >>> encode_latin1("a\\xff")
    b'a\\xff'
    """
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes encoded as {encoding!r}")
    return text.encode("latin1")


def no_bytes() -> bytes:
    """How protocol 2 spells no bytes, those of an empty array."""
    return b""


class PlainDtype:
    """A data type of numbers or text, by name and byte order; ``numpy.dtype`` in a pickle.

    >>> PlainDtype("f8").value()
    dtype('float64')
    """

    def __init__(self, name: Any, align: Any = False, copy: Any = True) -> None:
        if not isinstance(name, str) or not _NUMBERS_AND_TEXT.fullmatch(name):
            raise ValueError(f"arrays of {str(name)[:20]!r}")
        self.name, self.order = name, ""

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise ValueError("a data type without byte order")
        self.order = state[1]

    def value(self) -> np.dtype[Any]:
        """The NumPy data type."""
        found = np.dtype(self.name)
        return found.newbyteorder(">") if self.order == ">" else found


def _raw(content: Any) -> bytes:
    return content.encode("latin1") if isinstance(content, str) else bytes(memoryview(content))


def plain_scalar(dtype: Any, content: Any) -> Any:
    """A Python number or text for ``numpy.core.multiarray.scalar``.

    >>> plain_scalar(PlainDtype("i4"), b"\\x05\\0\\0\\0")
    5
    """
    if not isinstance(dtype, PlainDtype):
        raise ValueError("a scalar without data type")
    values = np.frombuffer(_raw(content), dtype.value())
    if len(values) != 1:
        raise ValueError(f"a scalar of {len(values)} values")
    return values[0].item()


class PlainArray:
    """An array under way: ``numpy.core.multiarray._reconstruct`` in a pickle makes it, its state fills it."""

    def __init__(self, *given: Any) -> None:
        self.value: np.ndarray[Any, Any] = np.empty(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        if not isinstance(dtype, PlainDtype) or any(type(n) is not int or n < 0 for n in shape):
            raise ValueError("an array without data type or shape")
        raw, found = _raw(content), dtype.value()
        if math.prod(shape) * found.itemsize != len(raw):
            raise ValueError(f"an array of shape {tuple(shape)} with {len(raw)} bytes")
        self.value = np.frombuffer(raw, found).reshape(shape, order="F" if fortran else "C").copy()


class _NeverCalled:
    """``numpy.ndarray``, which a pickle only names."""

    def __new__(cls, *given: Any) -> _NeverCalled:
        raise ValueError("an array made from its shape alone")


class PlainNamespace:
    """Parsed arguments, ``argparse.Namespace``, that training scripts save beside the weights: a dict under way."""

    def __init__(self) -> None:
        self.value: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        if type(state) is not dict or not all(isinstance(name, str) for name in state):
            raise ValueError("parsed arguments without names")
        self.value = state


_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
PLAIN_GLOBALS: dict[str, Any] = {
    "argparse.Namespace": PlainNamespace,
    "builtins.bytes": no_bytes,
    "numpy.dtype": PlainDtype,
    "numpy.ndarray": _NeverCalled,
    **{f"{module}.scalar": plain_scalar for module in _MODULES},
    **{f"{module}._reconstruct": PlainArray for module in _MODULES},
}
"""Names and what stands in for them, in a rehearsal and in ``torch.load``."""


def as_plain(content: Any, seen: dict[int, Any] | None = None) -> Any:
    """The same containers with each :class:`PlainArray` and :class:`PlainNamespace` replaced by what it holds."""
    seen = {} if seen is None else seen
    if isinstance(content, PlainArray):
        return content.value
    if isinstance(content, PlainNamespace):
        content = content.value
    if id(content) in seen:
        return seen[id(content)]
    if isinstance(content, dict):
        seen[id(content)] = content
        for key, value in content.items():
            content[key] = as_plain(value, seen)
    elif isinstance(content, list):
        seen[id(content)] = content
        content[:] = [as_plain(value, seen) for value in content]
    elif type(content) is tuple:
        seen[id(content)] = tuple(as_plain(value, seen) for value in content)
        return seen[id(content)]
    return content
