"""Locks that admit one process at a time to a folder, also on a disk shared by several nodes."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sharpness.errors import SystemRefusal

try:
    import fcntl
except ImportError:  # Windows: no locks
    fcntl = None  # type: ignore[assignment]

#: Seconds between two renewals of a lock's time stamp, and after which other nodes consider its holder dead.
BEAT, DEAD = 20.0, 120.0


def node() -> str:
    """Return the name of this machine, with characters that are safe in file names."""
    return re.sub(r"\W", "_", socket.gethostname(), flags=re.ASCII)[:40] or "node"


def rank() -> int:
    """Return the rank of this process under torchrun or srun; 0 for a single process."""
    text = os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or "0"
    return int(text) if text.isdecimal() else 0


@contextmanager
def only_process(folder: Path, what: str, made: bool = False) -> Iterator[None]:
    """Lock a folder against other processes and threads.

    A lock file next to the folder names the process at work. On one machine, the system's lock on this file decides;
    it ends with the process, however that ends. Locks on a shared disk may not be visible to other nodes. There, only
    one node can create the file (``O_EXCL``), and the lock is respected until its time stamp has not been renewed for
    :data:`DEAD` seconds.

    Args:
        folder: an existing folder.
        what: what the process does in the folder, for the message.
        made: ``folder`` is the path of the lock file instead.

    Raises:
        SystemRefusal: another process holds the lock.
    """
    if fcntl is None:
        yield
        return
    path = folder if made else folder.absolute().with_name(f".{folder.absolute().name}.lock")
    try:
        descriptor = _taken(path, folder, what)
    except OSError as error:
        if made:
            raise
        # No file can be created next to it: lock the folder itself, which works on this machine only.
        path, descriptor = folder, os.open(folder, os.O_RDONLY)
        if _flock(descriptor) is None:
            os.close(descriptor)
            raise refused(folder, what) from error
    own = _name()
    ended = threading.Event()
    beats = threading.Thread(target=_beat, args=(descriptor, ended), daemon=True)
    beats.start()
    try:
        yield
    finally:
        ended.set()
        beats.join()
        if path != folder or made:
            with suppress(OSError):
                # Not if this process was suspended for so long that another node has taken over the lock.
                if os.pread(descriptor, 200, 0) == own:
                    path.unlink()
        os.close(descriptor)


def refused(folder: Path, what: str, name: str = "", path: Path | None = None) -> SystemRefusal:
    """Make the error for a locked folder, which names the node that uses it."""
    elsewhere = name not in ("", node())
    on, hint = (f" on {name}", f" (or remove {path} if that node is gone)") if elsewhere else ("", "")
    return SystemRefusal(f"{folder}: another process {what} here{on}: wait for it{hint}, or take another folder")


def _taken(path: Path, folder: Path, what: str) -> int:
    """Take the lock, and return a descriptor of its file, which now names this process."""
    while True:
        try:
            descriptor, new = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
        except FileExistsError:
            try:
                descriptor, new = os.open(path, os.O_RDWR), False
            except FileNotFoundError:
                continue  # its holder has ended
        try:
            locks = _flock(descriptor)
            if locks and not _is_still(descriptor, path):
                os.close(descriptor)
                continue
            name, _, pid = os.read(descriptor, 200).decode(errors="replace").partition(" ")
            at_work = locks is None or (not new and _lives(path, descriptor, name, pid, bool(locks)))
            if at_work:
                raise refused(folder, what, name, path)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, _name(), 0)
            os.fsync(descriptor)
            return descriptor
        except BaseException:
            with suppress(OSError):
                os.close(descriptor)
            raise


def _name() -> bytes:
    """Return the content of a lock file of this process."""
    return f"{node()} {os.getpid()}".encode()


def _flock(descriptor: int) -> bool | None:
    """Return True if the lock was taken, None if another process here holds it, False if locks are not supported."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return None
    except OSError:
        return False


def _is_still(descriptor: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    return False


def _lives(path: Path, descriptor: int, name: str, pid: str, locks: bool) -> bool:
    """Return True if the process that wrote the lock file still holds the lock."""
    if name == node():  # a live holder would still have the system's lock
        return not locks and pid.isdecimal() and int(pid) != os.getpid() and is_running(int(pid))
    if not name:  # killed before it wrote its name
        return not locks
    # Compare with the clock of the disk, because the clocks of two nodes may differ.
    probe = path.with_name(f"{path.name}.{node()}-{os.getpid()}")
    try:
        probe.touch()
        now = probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)
    return now - os.fstat(descriptor).st_mtime < DEAD


def _beat(descriptor: int, ended: threading.Event) -> None:
    while not ended.wait(BEAT):
        with suppress(OSError):
            os.utime(descriptor)


def is_running(pid: int) -> bool:
    """Return True if this machine has a process with this number, or cannot tell."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
