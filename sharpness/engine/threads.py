"""Threads for the batches of one computation, and for independent tasks on one model."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import torch

from sharpness.engine.double_backward import twice_differentiable
from sharpness.engine.memory import memory_budget, shared_by
from sharpness.engine.undisturbed import lent

T = TypeVar("T")
R = TypeVar("R")


def in_threads(function: Callable[[T], R], items: Sequence[T], device: torch.device) -> Iterator[R]:
    """Yield ``map(function, items)`` in order; on a CPU, calls run in parallel, each with one of torch's threads.

    A single-threaded convolution needs no barriers and finds its tensors in its core's cache. Two or more items are
    computed in the same way whatever the number of threads, so sums in the order of the items do not depend on it. A
    single item gets all of torch's threads.
    """
    threads = torch.get_num_threads()
    workers = min(threads, len(items)) if device.type == "cpu" else 1
    if workers == 1:
        yield from map(function, items)
        return
    futures = deque(_pool(workers, os.getpid()).submit(function, item) for item in items)
    try:
        torch.set_num_threads(1)
        while futures:
            yield futures.popleft().result()
    finally:
        for future in futures:
            future.cancel()
        wait(futures)
        torch.set_num_threads(threads)


@cache
def _pool(workers: int, process: int) -> ThreadPoolExecutor:
    """Return threads that are reused by all products; a forked process needs its own."""
    return ThreadPoolExecutor(workers, "sharpness", initializer=torch.set_num_threads, initargs=(1,))


class Here(Executor):
    """An executor that calls a function at once, in the submitting thread, where errors are raised.

    >>> Here().submit(pow, 2, 3).result()
    8
    """

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


class Stopped(BaseException):
    """Raised inside a task whose result is no longer needed."""


class Workers(ThreadPoolExecutor):
    """Threads that compute with the same model at the same time; its derivatives must come from a trace.

    A trace only reads the model. The creator has exclusive use of the process (``undisturbed``) until the workers are
    shut down, and lends it to them. torch's threads are divided among the workers, because a product with a few images
    does not keep two cores busy, but two such products do. Results are those of a process with as many threads as one
    worker.

    Args:
        number: number of workers; more than one per thread of torch is useless.
    """

    def __init__(self, number: int) -> None:
        self.threads = max(1, torch.get_num_threads() // number)
        self.number = number
        self.stopped = threading.Event()
        super().__init__(number, "sharpness-worker", initializer=torch.set_num_threads, initargs=(self.threads,))

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        def work() -> Any:
            self.look()
            with lent(), shared_by(self.number):
                return fn(*args, **kwargs)

        return super().submit(work)

    def look(self, *_: object) -> None:
        """Raise :class:`Stopped` if the other work has been abandoned."""
        if self.stopped.is_set():
            raise Stopped


@contextmanager
def side_by_side(tasks: int, memory: int, possible: bool, device: torch.device) -> Iterator[Executor]:
    """Provide workers for as many tasks as threads and memory allow, or :class:`Here` if that is one task at a time.

    An error or Ctrl-C inside the context stops running tasks at their next call of ``look``.

    Args:
        tasks: number of tasks.
        memory: bytes that each task needs in addition to its share of the tape budget.
        possible: whether the tasks leave the model unchanged.
        device: device of the model.
    """
    number = min(tasks, torch.get_num_threads(), max(1, memory_budget(device) // max(1, memory)))
    if not possible or number < 2 or device.type != "cpu":
        yield Here()
        return
    # Entered here, because attention kernels are chosen for the whole process: the first worker to finish would restore
    # the fused kernels for the others, and these have no second derivative.
    with twice_differentiable(written_out=False), Workers(number) as workers:
        try:
            yield workers
        except BaseException:
            workers.stopped.set()
            workers.shutdown(wait=True, cancel_futures=True)
            raise
