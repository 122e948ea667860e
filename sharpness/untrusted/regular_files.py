"""Open regular files only: a pipe without a writer blocks, and a device such as ``/dev/zero`` has no end."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from sharpness.untrusted.refused import Refused


def open_regular(path: str | Path, limit: int) -> tuple[BinaryIO, int]:
    """Open a file; returns it and its size in bytes. The checks are of the opened file, not of its path.

    Raises:
        Refused: a folder, a pipe, a device or a socket; or more bytes than ``limit``.
        OSError: it cannot be opened.
    """
    # What cannot be read is refused before it is opened: a socket gives an odd error, some devices act when opened.
    _require_regular(os.stat(path))
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        found = os.fstat(descriptor)
        _require_regular(found)
        if found.st_size > limit:
            raise Refused(f"has {found.st_size:,} bytes and the limit is {limit:,}")
        return os.fdopen(descriptor, "rb"), found.st_size
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | Path, limit: int) -> bytes:
    """All bytes of a regular file of at most ``limit`` bytes; it raises what :func:`open_regular` does."""
    file, size = open_regular(path, limit)
    with file:
        return file.read(size)


def _require_regular(found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise Refused("is a folder: give the file in it")
    if not stat.S_ISREG(found.st_mode):
        raise Refused("is no regular file")
