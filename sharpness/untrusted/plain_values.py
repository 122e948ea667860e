"""NumPy values and parsed arguments in a pickle, rebuilt here: their own unpickling trusts what a file says of them."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from sharpness.untrusted.passed_over import PassedOver, rehearsed
from sharpness.untrusted.refused import Refused

DIMENSIONS = 64
"""Most dimensions of an array, NumPy's and PyTorch's own limit."""

OBJECTS = re.compile(r"O[48]?|[mM]8(\[.{1,8}\])?")
_NUMBERS_AND_TEXT = re.compile(r"[|<>=]?([biufc])([0-9]{1,2})|[|<>=]?([SU])([0-9]{1,4})")


def encode_latin1(text: str, encoding: str = "latin1") -> bytes:
    """Decode bytes that protocol 2 stores as text.

    >>> encode_latin1("a\\xff")
    b'a\\xff'
    """
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise Refused("holds bytes in an unknown encoding")
    return text.encode("latin1")


def no_bytes() -> bytes:
    """The empty bytes, as protocol 2 stores those of an empty array."""
    return b""


def is_shape(shape: Any) -> bool:
    """True for the shape of an array: a few integers that are cheap to multiply.

    >>> is_shape((2, 3)), is_shape((2.0, 3)), is_shape([1])
    (True, False, False)
    """
    return (
        isinstance(shape, tuple) and len(shape) <= DIMENSIONS and all(type(n) is int and 0 <= n < 2**62 for n in shape)
    )


class PlainDtype:
    """A data type of numbers or text, by name and byte order; ``numpy.dtype`` in a pickle.

    >>> PlainDtype("f8").value()
    dtype('float64')
    """

    def __init__(self, name: Any, align: Any = False, copy: Any = True) -> None:
        self.name, self.order = _ascii(name), ""
        if not (_NUMBERS_AND_TEXT.fullmatch(self.name) or self.passed_over):
            raise Refused(f"holds arrays of {self.name[:20]!r}, which are neither numbers nor text")

    @property
    def passed_over(self) -> bool:
        """True for a data type whose arrays are replaced by placeholders."""
        return False

    def __setstate__(self, state: Any) -> None:
        order = _ascii(state[1]) if isinstance(state, tuple) and len(state) > 1 else ""
        if order not in ("<", ">", "|", "="):
            raise Refused("holds a data type without byte order")
        self.order = order

    def value(self) -> np.dtype[Any]:
        """The NumPy data type."""
        found = np.dtype(self.name)
        return found.newbyteorder(">") if self.order == ">" else found


class ForeignDtype(PlainDtype):
    """One that may also be of objects or times: their arrays are passed over."""

    @property
    def passed_over(self) -> bool:
        return OBJECTS.fullmatch(self.name) is not None


def _ascii(text: Any) -> str:
    """A short name, which a pickle of Python 2 may spell in bytes."""
    if not isinstance(text, str | bytes) or len(text) > 20:
        raise Refused(f"names a data type by a {type(text).__name__}")
    return text.decode("latin1") if isinstance(text, bytes) else text


def _raw(content: Any) -> bytes:
    if not isinstance(content, str | bytes | bytearray):
        raise Refused(f"holds a {type(content).__name__} where numbers should be")
    return content.encode("latin1") if isinstance(content, str) else bytes(content)


def plain_scalar(dtype: Any, content: Any) -> Any:
    """A Python number or text for ``numpy.core.multiarray.scalar``.

    >>> plain_scalar(PlainDtype("i4"), b"\\x05\\0\\0\\0")
    5
    """
    if not isinstance(dtype, PlainDtype):
        raise Refused("holds a scalar without data type")
    if dtype.passed_over:
        return rehearsed("numpy.generic")()
    raw, found = _raw(content), dtype.value()
    if not found.itemsize or len(raw) != found.itemsize:
        raise Refused(f"holds a scalar of {found.itemsize} bytes in {len(raw):,}")
    values = np.frombuffer(raw, found)
    return values[0].item()


class PlainArray:
    """An array under way: ``numpy.core.multiarray._reconstruct`` in a pickle makes it, its state fills it."""

    def __init__(self, *given: Any) -> None:
        self.value: np.ndarray[Any, Any] | PassedOver = np.empty(0)

    def __setstate__(self, state: Any) -> None:
        if type(state) is not tuple or len(state) != 5:
            raise Refused("holds an array that is none")
        _, shape, dtype, fortran, content = state
        if not isinstance(dtype, PlainDtype) or not is_shape(shape):
            raise Refused("holds an array without data type or shape")
        if dtype.passed_over:
            self.value = rehearsed("numpy.ndarray")()
            return
        raw, found = _raw(content), dtype.value()
        if math.prod(shape) * found.itemsize != len(raw) or not found.itemsize:
            raise Refused(f"holds an array of {math.prod(shape):,} values in {len(raw):,} bytes")
        self.value = np.frombuffer(raw, found).reshape(shape, order="F" if fortran is True else "C").copy()


class _NeverCalled:
    """``numpy.ndarray``, which a pickle only names."""

    def __new__(cls, *given: Any) -> _NeverCalled:
        raise Refused("makes an array from its shape alone")


class PlainNamespace:
    """Parsed arguments, ``argparse.Namespace``, that training scripts save beside the weights: a dict under way."""

    def __init__(self) -> None:
        self.value: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        if type(state) is not dict or not all(isinstance(name, str) for name in state):
            raise Refused("holds parsed arguments without names")
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
