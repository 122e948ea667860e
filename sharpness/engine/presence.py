"""Presence of the processes of one command: the loss of one is told in a line, and ends the others within a minute.

A process that dies closes its connections, which gloo notices at once; torchrun then ends the others by SIGTERM. NCCL
notices nothing, a computer that has lost its power closes nothing, and who waits for an exchange in C++ runs no handler
of signals: so a thread of every process listens for SIGTERM, and to the beat of the next process.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from typing import Any

#: Seconds from one beat to the next, and without one until a process counts as lost; torchrun may take 30 more.
BEAT, SILENCE = 2.5, 25.0
#: Seconds that an error has to be the first process's as well.
PATIENCE = 3.0
#: A beat of one that has left in good order.
LEFT = 2**40
#: What to do after a process of several has ended before its time.
GO_ON = "start the same command again, with --resume for 'train': it goes on from what was saved"
LOST = f"another process of this command has ended: {GO_ON}"
ENDED = f"ended by SIGTERM, which torchrun sends where another process has ended: {GO_ON}"


class Presence:
    """The beats of a process, and the watch over the next one.

    Args:
        store: of the process group, a ``torch.distributed.Store``.
        rank: of this process.
        processes: how many there are.
    """

    def __init__(self, store: Any, rank: int, processes: int) -> None:
        self._store, self._rank, self._next = store, rank, (rank + 1) % processes
        self._stopped, self._telling = threading.Event(), threading.Lock()
        threading.Thread(target=self._watch, daemon=True).start()
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
            self._listen()

    def leave(self) -> None:
        """End the beats: this process is not missed."""
        self._stopped.set()
        with suppress(RuntimeError):
            self._store.add(f"beat {self._rank}", LEFT)

    def tell(self, message: str) -> None:
        """Print a line on stderr, whatever it is redirected to, unless another process has told something."""
        with self._telling:  # another thread may be about to end the process
            if self._first_to_tell():
                os.write(2, f"sharpness: {message}\n".encode())

    def told(self, message: str) -> None:
        """Note that the first process has printed a line; in others print it, unless that one does in a moment."""
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
        """True in the first process that asks; where the others cannot be asked, in the first two."""
        try:
            return bool(self._store.add("told", 1) == 1)
        except RuntimeError:  # the store was the lost process's
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
        """Receive SIGTERM in a thread, also while the main one waits."""
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
    """Keep SIGTERM back during a fork: a child that gets it before it forgets would tell its parent, and live on."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])


def _release() -> None:
    """Let SIGTERM come again."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


def _forget() -> None:
    """Give a forked process, such as a worker of a data loader, the usual end by SIGTERM."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _release()
