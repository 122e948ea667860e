"""One process at a time in a folder, also where several nodes share its disk."""

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
except ImportError:  # Windows: nothing is locked
    fcntl = None  # type: ignore[assignment]

#: Seconds between two signs of life of whoever holds a lock, and after which another node believes it dead.
BEAT, DEAD = 20.0, 120.0


def node() -> str:
    """The name of this machine, fit for a part of a file's name."""
    return re.sub(r"\W", "_", socket.gethostname(), flags=re.ASCII)[:40] or "node"


def rank() -> int:
    """The number of this process among those of torchrun or srun; 0 of a single one."""
    text = os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or "0"
    return int(text) if text.isdecimal() else 0


@contextmanager
def only_process(folder: Path, what: str, made: bool = False) -> Iterator[None]:
    """Keep other processes, and threads, from ``what`` in a folder, which must exist.

    A file beside the folder names who is at work. On one machine the system's lock on it counts, which ends with the
    process, however it ends. Locks of a disk that several nodes share may reach no further than their node: there the
    file is made by one of them only (``O_EXCL``), and counts for as long as its time is renewed, :data:`DEAD` seconds.

    Args:
        made: ``folder`` is the name of that file instead.

    Raises:
        SystemRefusal: another one is at it.
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
        # Beside it nothing may be made: the folder itself is locked, as far as this machine.
        path, descriptor = folder, os.open(folder, os.O_RDONLY)
        if _flock(descriptor) is None:
            os.close(descriptor)
            raise refused(folder, what) from error
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
                path.unlink()
        os.close(descriptor)


def refused(folder: Path, what: str, name: str = "", path: Path | None = None) -> SystemRefusal:
    """Why a folder cannot be had: who is at it, and where."""
    elsewhere = name not in ("", node())
    on, hint = (f" on {name}", f" (or remove {path} if that node is gone)") if elsewhere else ("", "")
    return SystemRefusal(f"{folder}: another process {what} here{on}: wait for it{hint}, or take another folder")


def _taken(path: Path, folder: Path, what: str) -> int:
    """A descriptor of the lock's file, which names this process."""
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
            os.pwrite(descriptor, f"{node()} {os.getpid()}".encode(), 0)
            os.fsync(descriptor)
            return descriptor
        except BaseException:
            with suppress(OSError):
                os.close(descriptor)
            raise


def _flock(descriptor: int) -> bool | None:
    """True if the lock was taken, None if another process of this machine has it, False where there are no locks."""
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
    """True if whoever wrote the file is still at work."""
    if name == node():  # whose lock would have told
        return not locks and pid.isdecimal() and int(pid) != os.getpid() and is_running(int(pid))
    if not name:  # killed before it wrote its name
        return not locks
    # Compared with the disk's own clock, because those of two nodes may differ.
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
    """True if this machine has a process of that number, or does not say."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
