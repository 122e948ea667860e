"""Atomic file writes that are safe against power cuts and other nodes that share the disk."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from sharpness.errors import SystemRefusal, UserError, shown
from sharpness.locks import is_running, node, rank

try:
    import fcntl
except ImportError:  # Windows: no locks, and partial files of killed processes stay
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    import pandas as pd

#: Maximum length in bytes of a file name that gets a prefix or suffix; file systems allow 255.
NAME_BYTES = 180
#: Formats of pictures; every picture is written in both.
PICTURES = (".pdf", ".png")
#: Names of partial files: the final name, node, rank and process. Earlier versions only had the process.
PARTIAL = re.compile(
    r"\.(?P<file>.+)\.(?:(?P<node>\w+)-(?P<rank>\d+)-)?(?P<pid>\d+)(?:-\d+)?\.part", re.ASCII | re.DOTALL
)
#: Seconds after which a partial file of another node counts as abandoned.
DAY = 86400
_numbers = itertools.count()


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write to a temporary file next to ``path`` with ``write``, sync it to the disk, then rename it to ``path``.

    Partial files that killed processes left for the same path are removed.

    Raises:
        SystemRefusal: a full disk, a folder without write permission, or a name that is too long.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent, path.name)
        with _partial(path) as partial:
            write(partial)
            _sync(partial)
            os.replace(partial, path)
            _sync(path.parent)
    except OSError as error:
        raise refusal(f"cannot write {path}", error) from error


def write_archive(content: Any, path: Path) -> None:
    """Write with ``torch.save``; equal contents give equal files.

    ``torch.save`` gets an open file: it would store a path's name in the archive, and hide the system's error if the
    disk is full.
    """
    import torch

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            opened = _Remembering(file)
            try:
                torch.save(_with_shared_strings(content), opened)  # type: ignore[arg-type]
            except Exception as error:
                raise opened.error or error from None
            if opened.error:
                raise opened.error

    write_atomically(path, write)


def _with_shared_strings(content: Any) -> Any:
    """Copy dicts, lists and tuples, with one object for all equal strings.

    Pickle recognises repeated strings by identity. Without this, a resumed run, whose history was read from a file,
    would give other bytes than an uninterrupted one.
    """
    if type(content) is str:
        return sys.intern(content)
    if type(content) is dict:
        return {_with_shared_strings(key): _with_shared_strings(value) for key, value in content.items()}
    if type(content) in (list, tuple):
        return type(content)(map(_with_shared_strings, content))
    return content


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write plain arrays to an ``.npz`` file."""
    import numpy as np

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    write_atomically(path, write)


def write_csv(frame: pd.DataFrame, path: Path) -> Path:
    """Write a table with six significant digits and without its index, and return ``path``."""
    write_atomically(path, lambda partial: frame.to_csv(partial, index=False, float_format="%.6g"))
    return path


def picture_file(path: str | Path, suffix: str) -> Path:
    """Return the path of one of the files of a picture: the PDF, the PNG, or a file next to them.

    Args:
        path: name of the picture, without a suffix or with that of either format.
        suffix: suffix of the file.

    Raises:
        UserError: the name has the suffix of another format.

    >>> str(picture_file("rise.png", ".pdf")), str(picture_file("rise-0.1", ".png"))
    ('rise.pdf', 'rise-0.1.png')
    """
    path = Path(path)
    if path.suffix.lower() in PICTURES:
        path = path.with_suffix("")
    elif re.fullmatch(r"\.[A-Za-z]\w*", path.suffix):
        raise UserError(
            f"{shown(str(path))}: pictures are written as PDF and as PNG, give a name that ends in "
            f"{' or '.join(PICTURES)}, or in neither"
        )
    return path.with_name(path.name + suffix)


def refusal(what: str, error: OSError) -> SystemRefusal:
    """Make an error from a system error, with a remedy if there is a known one."""
    remedies = {
        errno.ENOSPC: "make room, then give the same command again",
        errno.EDQUOT: "make room, then give the same command again",
        errno.ENAMETOOLONG: "give a shorter name",
        errno.EROFS: "give another folder",
        errno.EACCES: "give another folder",
        errno.EPERM: "give another folder",
        errno.ENOTDIR: "give another folder",
        errno.EMFILE: "allow more open files (ulimit -n)",
    }
    remedy = remedies.get(error.errno or 0)
    reason = error.strerror or str(error) or type(error).__name__
    return SystemRefusal(": ".join([what, reason, *([remedy] if remedy else [])]))


def remove_abandoned(folder: Path, name: str | None = None) -> None:
    """Remove the partial files that killed processes left for ``name``, or for every file in a folder."""
    if fcntl is None or not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        found = [Path(entry) for entry in entries if is_partial(entry.name, name)]
    for partial in found:
        with suppress(OSError):
            descriptor = os.open(partial, os.O_RDWR)
            try:
                # The writer holds the lock, and the system releases it however the process ends.
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not _at_work(partial):
                    partial.unlink()
            finally:
                os.close(descriptor)


def is_partial(found: str, name: str | None = None) -> bool:
    """Return True if ``found`` is the name of a partial file of ``name``, or of any file.

    >>> is_partial(".run.json.4711.part"), is_partial(".a.csv.gpu3-0-1-2.part", "a.csv"), is_partial("movie.part")
    (True, True, False)
    """
    match = PARTIAL.fullmatch(found)
    return match is not None and (name is None or match["file"] == shortened(name))


def shortened(name: str) -> str:
    """Shorten a long name so that a prefix and suffix fit; a shortened name ends in a hash of the name."""
    if len(os.fsencode(name)) <= NAME_BYTES:
        return name
    return f"{os.fsencode(name)[:100].decode(errors='ignore')}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """Create a partial file next to ``path``, lock it, and remove it at the end."""
    process = f"{node()}-{rank()}-{os.getpid()}"
    partial = path.with_name(f".{shortened(path.name)}.{process}-{next(_numbers)}.part")
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if fcntl is not None:
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield partial
    finally:
        os.close(descriptor)
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _at_work(partial: Path) -> bool:
    """Return True if the process that a partial file names may still be writing it, here or on another node.

    Locks on a shared disk may not be visible to other nodes: their partial files are removed when they are a day old.
    """
    match = PARTIAL.fullmatch(partial.name)
    assert match is not None
    if match["node"] not in (None, node()):
        return time.time() - partial.stat().st_mtime < DAY
    pid = int(match["pid"])
    return pid != os.getpid() and is_running(pid)


def _sync(path: Path) -> None:
    """Sync a file, or the entries of a folder, to the disk; some file systems cannot sync folders."""
    if path.is_dir() and fcntl is None:
        return
    descriptor = os.open(path, os.O_RDONLY if fcntl is not None else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


class _Remembering:
    """A file that keeps its first error, because torch replaces it by one of its own."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.error = file, None

    error: OSError | None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self.file.flush()
