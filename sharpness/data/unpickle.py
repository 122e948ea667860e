"""Containers, text and NumPy arrays out of a pickle, by the unpickler of :mod:`sharpness.untrusted.machine`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from sharpness.errors import UserError, shown
from sharpness.untrusted.machine import ARRAYS, Machine, globals_of
from sharpness.untrusted.plain_values import PLAIN_GLOBALS, encode_latin1
from sharpness.untrusted.refused import Refused
from sharpness.untrusted.regular_files import read_regular
from sharpness.untrusted.unfolding import as_plain

LIMIT = 2**30
"""Largest file that is read, in bytes; the largest of CIFAR's has 154 MB."""

ALLOWED: dict[str, Any] = {
    "_codecs.encode": encode_latin1,
    **{name: stand_in for name, stand_in in PLAIN_GLOBALS.items() if name.startswith("numpy.")},
}


def _resolve(name: str) -> Any:
    if name not in ALLOWED:
        raise Refused(f"names {shown(name, 48)}, which no data file needs (nothing was run)")
    return ALLOWED[name]


def read_pickle(path: Path, remedy: str) -> Any:
    """The containers and arrays of a pickle file; strings of Python 2 become bytes.

    Args:
        path: the file.
        remedy: what to do about a file that cannot be read, the end of every message.

    Raises:
        UserError: the file is missing or unreadable, is no complete pickle, or names a global outside
            :data:`ALLOWED`; nothing of such a file has run.

    >>> import pickle, tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "file")
    ...     _ = path.write_bytes(pickle.dumps({"a": np.arange(3)}))
    ...     read_pickle(path, "unpack it again")
    {'a': array([0, 1, 2])}
    """
    try:
        content = read_regular(path, LIMIT)
        for name in globals_of(io.BytesIO(content)):
            _resolve(name)
        return as_plain(Machine(io.BytesIO(content), ARRAYS, _resolve, len(content)).load())
    except Refused as error:
        raise UserError(f"{path} {error}: {remedy}") from None
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {remedy}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {remedy}") from None
    except Exception:
        # A damaged pickle can raise nearly any exception.
        raise UserError(f"{path} is truncated or no pickle of arrays: {remedy}") from None
