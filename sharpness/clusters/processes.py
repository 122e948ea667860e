"""Worker processes on this machine, each with its share of threads and memory; dead workers are replaced."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sharpness.errors import SystemRefusal

#: Number of workers that may die at one task before the task fails.
DEATHS = 3


@dataclass
class _Waiting:
    future: Future[Any]
    call: Callable[[], Any]
    deaths: int = 0


class Processes(Executor):
    """An executor of several processes; the task of a killed process, for example by the OOM killer, runs again.

    Workers are spawned, end with this process, and share torch's threads and the machine's memory equally.

    Args:
        workers: number of processes.

    Attributes:
        scratch: a temporary folder that workers see; it is removed on shutdown.

    >>> with Processes(1) as executor:
    ...     executor.submit(pow, 2, 3).result()
    8
    """

    _start = "spawn"

    def __init__(self, workers: int) -> None:
        self.workers = self.sharers = workers
        self.name = f"processes:{workers}"
        self._folder = tempfile.TemporaryDirectory(prefix="sharpness-", ignore_cleanup_errors=True)
        self.scratch = Path(self._folder.name)
        self._threads = max(1, torch.get_num_threads() // workers)
        self._lock = threading.RLock()
        self._waiting: deque[_Waiting] = deque()
        self._closed = False
        # A pool for each worker: when a process dies, all tasks of its pool fail, whichever it was at.
        self._pools = [self._new_pool() for _ in range(workers)]
        self._idle = list(self._pools)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        task = _Waiting(Future(), partial(fn, *args, **kwargs))
        with self._lock:
            if self._closed:
                raise RuntimeError("the processes are shut down")
            self._waiting.append(task)
        self._fill()
        return task.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        with self._lock:
            self._closed = True
            if cancel_futures:
                for task in self._waiting:
                    task.future.cancel()
                self._waiting.clear()
            left = [task.future for task in self._waiting]
        if wait:
            for future in left:
                if not future.cancelled():
                    future.exception()
        while self._pools:  # the death of a last task's worker adds a pool
            self._pools.pop().shutdown(wait, cancel_futures=cancel_futures)
        self._folder.cleanup()

    def __exit__(self, kind: Any, error: Any, lines: Any) -> None:
        self.shutdown(cancel_futures=kind is not None)

    def _new_pool(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context(self._start)
        return ProcessPoolExecutor(1, context, initializer=_enter, initargs=(self._threads,))

    def _replaced(self, pool: ProcessPoolExecutor) -> ProcessPoolExecutor:
        """Return a new pool in place of one whose worker died."""
        new = self._new_pool()
        self._pools = [*(other for other in self._pools if other is not pool), new]
        return new

    def _fill(self) -> None:
        """Submit at most as many tasks as there are workers, so that a death does not affect waiting tasks."""
        with self._lock:
            while self._waiting and self._idle:
                task = self._waiting.popleft()
                if not task.future.running() and not task.future.set_running_or_notify_cancel():
                    continue
                pool = self._idle.pop()
                try:
                    inner = pool.submit(task.call)
                except BrokenProcessPool:
                    pool = self._replaced(pool)
                    inner = pool.submit(task.call)
                inner.add_done_callback(partial(self._done, task, pool))

    def _done(self, task: _Waiting, pool: ProcessPoolExecutor, inner: Future[Any]) -> None:
        with self._lock:
            error = inner.exception() if not inner.cancelled() else SystemRefusal("the task was given up")
            died = isinstance(error, BrokenProcessPool)
            self._idle.append(self._replaced(pool) if died else pool)
            if died:
                task.deaths += 1
            if died and task.deaths < DEATHS:
                self._waiting.appendleft(task)
            elif died:
                error = SystemRefusal(
                    f"{self.name}: workers ended {DEATHS} times at one task, as they do where memory is short, or "
                    "where they cannot import what it needs: take fewer processes, or see what they print"
                )
                task.future.set_exception(error)
            elif error is not None:
                task.future.set_exception(error)
            else:
                task.future.set_result(inner.result())
        self._fill()


def _enter(threads: int) -> None:
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when its parent ends: a worker whose parent was killed would wait for tasks forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
