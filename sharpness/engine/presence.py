"""Heartbeats of the processes of one command: if one is lost, a line says so, and the others end within a minute.

A process that dies closes its connections, which gloo notices at once; torchrun then ends the others with SIGTERM. NCCL
does not notice, a computer that lost power closes nothing, and a process that waits for an exchange in C++ runs no
signal handlers. Therefore, a thread in every process listens for SIGTERM and for the heartbeat of the next process.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from typing import Any

#: Seconds between heartbeats, and without one until a process counts as lost; torchrun may take 30 more.
BEAT, SILENCE = 2.5, 25.0
#: Seconds in which the first process may report the same error.
PATIENCE = 3.0
#: Added to the heartbeat count of a process that has left normally.
LEFT = 2**40
#: The remedy after one of several processes has ended prematurely.
GO_ON = "start the same command again, with --resume for 'train': it goes on from what was saved"
LOST = f"another process of this command has ended: {GO_ON}"
ENDED = f"ended by SIGTERM, which torchrun sends where another process has ended: {GO_ON}"


class Presence:
    """The heartbeat of a process, and the monitoring of the next process.

    Args:
        store: the ``torch.distributed.Store`` of the process group.
        rank: rank of this process.
        processes: number of processes.
    """

    def __init__(self, store: Any, rank: int, processes: int) -> None:
        self._store, self._rank, self._next = store, rank, (rank + 1) % processes
        self._stopped, self._telling = threading.Event(), threading.Lock()
        threading.Thread(target=self._watch, daemon=True).start()
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
            self._listen()

    def leave(self) -> None:
        """End the heartbeat normally: other processes do not consider this one lost."""
        self._stopped.set()
        with suppress(RuntimeError):
            self._store.add(f"beat {self._rank}", LEFT)

    def tell(self, message: str) -> None:
        """Print a line to file descriptor 2, unless another process has already reported an error."""
        with self._telling:  # another thread may be about to end the process
            if self._first_to_tell():
                os.write(2, f"sharpness: {message}\n".encode())

    def told(self, message: str) -> None:
        """Note that the first process has printed an error; in others, print it unless the first one does shortly."""
        until = time.monotonic() + PATIENCE
        while self._rank and time.monotonic() < until:
            with suppress(RuntimeError):
                if self._store.add("told", 0):
                    return
            time.sleep(0.1)
        if self._rank:
            self.tell(message)
        else:
            self._first_to_tell()

    def _first_to_tell(self) -> bool:
        """True in the first process that calls this; without a store, in the processes of ranks 0 and 1."""
        try:
            return bool(self._store.add("told", 1) == 1)
        except RuntimeError:  # the lost process held the store
            return self._rank < 2

    def _watch(self) -> None:
        last, since = -1, time.monotonic()
        while not self._stopped.wait(BEAT):
            with suppress(RuntimeError):
                self._store.add(f"beat {self._rank}", 1)
                if (beat := self._store.add(f"beat {self._next}", 0)) != last or beat >= LEFT:
                    last, since = beat, time.monotonic()
            if time.monotonic() - since > SILENCE:
                self._end(LOST)

    def _listen(self) -> None:
        """Receive SIGTERM in a thread, also while the main thread waits."""
        receive, send = os.pipe()
        os.set_blocking(send, False)
        signal.signal(signal.SIGTERM, lambda number, frame: None)
        signal.set_wakeup_fd(send, warn_on_full_buffer=False)
        os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_forget)

        def listen() -> None:
            while number := os.read(receive, 1):
                if number[0] == signal.SIGTERM:
                    self._end(ENDED)

        threading.Thread(target=listen, daemon=True).start()

    def _end(self, message: str) -> None:
        self.tell(message)
        os._exit(2)


def _hold() -> None:
    """Block SIGTERM during a fork: a child that received it too early would wake its parent's thread, and survive."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])


def _release() -> None:
    """Unblock SIGTERM."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


def _forget() -> None:
    """Restore the default action of SIGTERM in a forked process, such as a worker of a data loader."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _release()
