"""Read arrays out of a pickle without running anything that the file says.

A pickle is a program. This reader resolves only the few names that a pickle of plain containers, strings and
NumPy arrays needs, to functions chosen here; any other name ends the reading before anything of it is
imported or called.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from sharpness.errors import UserError


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """What ``_codecs.encode`` is used for in a pickle of bytes, and nothing else."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r}")
    return text.encode("latin1")


_reconstruct = np.empty(0).__reduce__()[0]

ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
}


class _ForbiddenGlobal(Exception):
    """A pickle named something outside :data:`ALLOWED`."""


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise _ForbiddenGlobal(f"{module}.{name}")
        return ALLOWED[module, name]


def read_pickle(path: Path, remedy: str) -> Any:
    """The containers and arrays of a pickle file; strings of Python 2 become bytes.

    Args:
        path: the file.
        remedy: what to do about a file that cannot be read, the end of every message.

    Raises:
        UserError: the file is missing or unreadable, is no complete pickle, or names a global outside
            :data:`ALLOWED`; nothing of such a file has run.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "file")
    ...     _ = path.write_bytes(pickle.dumps({"a": np.arange(3)}))
    ...     read_pickle(path, "unpack it again")
    {'a': array([0, 1, 2])}
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {remedy}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {remedy}") from None
    try:
        return _Reader(io.BytesIO(content), encoding="bytes").load()
    except _ForbiddenGlobal as error:
        raise UserError(f"{path} names {error}, which no data file needs (nothing was run): {remedy}") from None
    except Exception:
        # A damaged pickle can raise nearly any exception.
        raise UserError(f"{path} is truncated or no pickle of arrays: {remedy}") from None
