"""Atomic file writes, which survive a power cut and other nodes of a shared disk."""

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
except ImportError:  # Windows: nothing is locked, and nothing of a killed process removed
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    import pandas as pd

#: Bytes of a name that is used as part of a longer one; file systems take 255.
NAME_BYTES = 180
#: Formats of pictures, which are written in both.
PICTURES = (".pdf", ".png")
#: Names of partial files: of what, and the node, rank and process that write it. Earlier versions named the process.
PARTIAL = re.compile(
    r"\.(?P<file>.+)\.(?:(?P<node>\w+)-(?P<rank>\d+)-)?(?P<pid>\d+)(?:-\d+)?\.part", re.ASCII | re.DOTALL
)
#: Seconds after which what another node was writing is abandoned.
DAY = 86400
_numbers = itertools.count()


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``path``, bring it to the disk, then move it there in one step.

    What killed processes left of the same file is removed.

    Raises:
        SystemRefusal: a full disk, a folder that may not be written to, a name that is too long.
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
    """Write what ``torch.save`` takes; equal contents give equal files.

    ``torch.save`` puts the name of the file that it is given into the archive, and reports a full disk in words of its
    own: it is given an opened one.
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
    """The same dicts, lists and tuples with one object for equal strings.

    A pickle refers to a string that it has seen before by its identity: a key of a resumed run's history, read from a
    file, would make other bytes than the same key of a run that was never interrupted.
    """
    if type(content) is str:
        return sys.intern(content)
    if type(content) is dict:
        return {_with_shared_strings(key): _with_shared_strings(value) for key, value in content.items()}
    if type(content) in (list, tuple):
        return type(content)(map(_with_shared_strings, content))
    return content


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write an ``.npz`` file of plain arrays."""
    import numpy as np

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    write_atomically(path, write)


def write_csv(frame: pd.DataFrame, path: Path) -> Path:
    """A table with six significant digits, without its index; returns ``path``."""
    write_atomically(path, lambda partial: frame.to_csv(partial, index=False, float_format="%.6g"))
    return path


def picture_file(path: str | Path, suffix: str) -> Path:
    """One of the files of a picture: the PDF, the PNG, or what lies beside them.

    Args:
        path: the picture's name, without a suffix or with that of either format.
        suffix: of the file.

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
    """Why the system did not do something, with what to do about it."""
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
    """Remove what killed processes left of a file that was being written, or of every file in a folder."""
    if fcntl is None or not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        found = [Path(entry) for entry in entries if is_partial(entry.name, name)]
    for partial in found:
        with suppress(OSError):
            descriptor = os.open(partial, os.O_RDWR)
            try:
                # Whoever writes holds the lock, and the system lets go of it however the process ends.
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not _at_work(partial):
                    partial.unlink()
            finally:
                os.close(descriptor)


def is_partial(found: str, name: str | None = None) -> bool:
    """True if a file of this name is a partial one, of ``name`` or of any file.

    >>> is_partial(".run.json.4711.part"), is_partial(".a.csv.gpu3-0-1-2.part", "a.csv"), is_partial("movie.part")
    (True, True, False)
    """
    match = PARTIAL.fullmatch(found)
    return match is not None and (name is None or match["file"] == shortened(name))


def shortened(name: str) -> str:
    """A name that more can be put behind; a long one ends in its fingerprint."""
    if len(os.fsencode(name)) <= NAME_BYTES:
        return name
    return f"{os.fsencode(name)[:100].decode(errors='ignore')}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """A new file beside ``path``, locked while it is written and gone afterwards."""
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
    """True if the process that a partial file names may be about to lock it, or may be at work on another node.

    Locks of a shared disk may not reach other nodes: what these were writing is removed when it is a day old.
    """
    match = PARTIAL.fullmatch(partial.name)
    assert match is not None
    if match["node"] not in (None, node()):
        return time.time() - partial.stat().st_mtime < DAY
    pid = int(match["pid"])
    return pid != os.getpid() and is_running(pid)


def _sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk; some file systems do not for folders."""
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
    """A file whose first error is kept: torch reports it as one of its own."""

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
