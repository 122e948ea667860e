"""Identity of a loss function: its name, and a digest of what it computes."""

from __future__ import annotations

import dis
import functools
import hashlib
import logging
import re
import sys
import types
import weakref
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor

logger = logging.getLogger("sharpness")
#: Packages whose functions are identified by name, because their code is determined by a version.
KNOWN = ("torch", "numpy", "scipy", "pandas", "builtins", "math", "sharpness")
#: First identities of losses that change when they are called.
_FIRST: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
#: The address of an object in its repr.
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def loss_name(loss: Any) -> str:
    """Return the name of a loss, the same in every process.

    >>> loss_name("ce"), loss_name(torch.nn.MSELoss(reduction="none")), loss_name(lambda u, t: u)
    ('ce', 'MSELoss()', '<lambda>')
    """
    if isinstance(loss, str):
        return loss
    name = _ADDRESS.sub("", str(getattr(loss, "__name__", repr(loss))))
    # A function named ce differs from the loss "ce", for which there are closed forms.
    return "function ce" if name == "ce" else name


def loss_identity(loss: Any) -> str | None:
    """Return the name of a loss with a digest of its code and of all numbers in it; None for losses of this package.

    The digest distinguishes functions of the same name, and is the same in every process of one version of Python. It
    covers bytecode, defaults, closures, and the globals that the code reads, of modules what it reads of them; for an
    object or an ``nn.Module``, its attributes and state, and those of its class.

    >>> half, double = (functools.partial(torch.mul, factor) for factor in (0.5, 2.0))
    >>> loss_identity(half) == loss_identity(functools.partial(torch.mul, 0.5)) != loss_identity(double)
    True
    """
    if isinstance(loss, str) or type(loss).__module__.startswith("sharpness."):
        return None
    digest = digest_of(loss)
    return None if digest is None else f"{loss_name(loss)} {digest}"


def digest_of(value: Any) -> str | None:
    """Return the digest in :func:`loss_identity` for any object; None if it has none."""
    digest = hashlib.sha256()
    try:
        for part in _parts(value, {}):
            digest.update(len(part).to_bytes(8, "little") + part)
    except Exception as error:  # user objects may contain anything
        logger.debug("%s has no digest: %s", loss_name(value), error)
        return None
    return digest.hexdigest()[:16]


def settled(loss: Any, before: str | None) -> str | None:
    """Return the identity of a loss after it was called; if calls change it, like a counter, its first identity.

    Otherwise the identity would depend on how often models that share the function had called it before.

    Args:
        before: the identity before the calls.
    """
    if before is None or loss_identity(loss) == before:
        return before
    try:
        return _FIRST.setdefault(loss, before)
    except TypeError:  # neither hashable nor weakly referenced
        return None


def _parts(value: Any, seen: dict[int, Any]) -> Iterator[bytes]:
    """Yield the bytes that identify an object and its contents, each object once."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | types.EllipsisType):
        yield repr(value).encode()
        return
    yield type(value).__qualname__.encode()
    if id(value) in seen:
        return
    seen[id(value)] = value  # kept alive, because a new object may get the id of a deleted one
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind not in "biufc":  # objects, text, dates
        yield from _parts([value.dtype.str, value.shape, *value.astype(object).flat], seen)
        return
    if isinstance(value, Tensor | np.ndarray | np.generic):
        array = value.detach().cpu().to_dense() if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
        yield f"{array.dtype} {tuple(array.shape)}".encode()
        yield array.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return
    for part in _contents(value):
        yield from _parts(part, seen)


def _contents(value: Any) -> Sequence[Any]:
    """Return the objects that an object consists of, in an order that is the same in every process."""
    if isinstance(value, types.ModuleType):
        return [value.__name__]
    if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType) and _is_known(value):
        return [value.__module__, value.__qualname__]
    if isinstance(value, type):
        return [
            value.__qualname__,
            *(part for name, part in sorted(vars(value).items()) if callable(part) or not name.startswith("__")),
            *value.__bases__,
        ]
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if cell != types.CellType()]
        known = [value.__globals__[name] for name in _globals(value.__code__) if name in value.__globals__]
        known += _read_of(value.__code__, [*known, *cells])
        return [value.__code__, value.__defaults__, value.__kwdefaults__, cells, known]
    if isinstance(value, types.CodeType):
        # Without argument names and line numbers, which do not change the result.
        return [value.co_code, value.co_names, value.co_consts[1:] if _documented(value) else value.co_consts]
    if isinstance(value, types.MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, Mapping):
        return [part for pair in value.items() for part in pair]
    if isinstance(value, Set):
        return sorted(map(repr, value))
    if isinstance(value, Sequence):
        return list(value)
    if (state := _pickled(value)) is not None:
        return [type(value), *state]
    own = vars(value) if hasattr(value, "__dict__") else {"text": _ADDRESS.sub("", repr(value))}
    return [type(value), {name: own[name] for name in sorted(own) if name != "training"}]


def _pickled(value: Any) -> list[Any] | None:
    """Return what pickle saves of an object without attributes, or with a way of its own, such as a DataFrame.

    The text of such an object may be abbreviated, and its attributes may include caches. None for other objects.
    """
    own = (getattr(type(value), n, None) is not getattr(object, n, None) for n in ("__reduce__", "__getstate__"))
    if hasattr(value, "__dict__") and not any(own):
        return None
    try:
        made, *state = value.__reduce_ex__(2)
        return [f"{made.__module__}.{made.__qualname__}", *state]
    except Exception:  # not every object can be pickled
        return None


def _is_known(value: Any) -> bool:
    return str(value.__module__).partition(".")[0] in KNOWN


def _globals(code: types.CodeType) -> list[str]:
    """Return the names of the globals that some code, or a function defined in it, reads."""
    read = [str(one.argval) for one in dis.get_instructions(code) if one.opname in ("LOAD_GLOBAL", "LOAD_NAME")]
    inner = [name for part in code.co_consts if isinstance(part, types.CodeType) for name in _globals(part)]
    return list(dict.fromkeys([*read, *inner]))


def _read_of(code: types.CodeType, values: Sequence[Any]) -> list[Any]:
    """Return what some code may read of the user's own modules among some values, such as ``alpha`` in
    ``config.alpha``: everything under a name that occurs in the code.
    """
    names, found = _attributes(code), []
    modules = [v for v in values if isinstance(v, types.ModuleType)]
    for module in modules:  # grows by submodules
        if module.__name__.partition(".")[0] in {*KNOWN, *sys.stdlib_module_names}:
            continue
        read = [vars(module)[name] for name in names if name in vars(module)]
        modules += [v for v in read if isinstance(v, types.ModuleType) and v not in modules]
        found += read
    return found


def _attributes(code: types.CodeType) -> list[str]:
    """Return the names in some code, and in functions defined in it."""
    inner = [name for part in code.co_consts if isinstance(part, types.CodeType) for name in _attributes(part)]
    return list(dict.fromkeys([*code.co_names, *inner]))


def _documented(code: types.CodeType) -> bool:
    """True if the first constant is a docstring, or None in place of one."""
    return bool(code.co_consts) and code.co_name != "<lambda>" and isinstance(code.co_consts[0], str | None)
