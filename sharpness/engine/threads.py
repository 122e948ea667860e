"""Threads: for the batches of one computation, and for independent work on one model."""

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
    """``map(function, items)``, in order; on a CPU each call runs in a thread of its own with one thread of torch's.

    A convolution of one thread needs no barriers and finds its tensors in its own core's cache. Two or more items are
    each computed in the same way however many threads there are, so that sums in the order of the items do not depend
    on it; a single item gets all of torch's threads.
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
    """Threads that stay from product to product; a forked process needs its own."""
    return ThreadPoolExecutor(workers, "sharpness", initializer=torch.set_num_threads, initargs=(1,))


class Here(Executor):
    """An executor that calls at once, in the thread that submits: errors are raised there.

    >>> Here().submit(pow, 2, 3).result()
    8
    """

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


class Stopped(BaseException):
    """Raised inside work whose result nobody waits for any more."""


class Workers(ThreadPoolExecutor):
    """Threads that compute with one model at a time when its derivatives come from a trace, which only reads it.

    Whoever makes them holds the process for itself (``undisturbed``) until they are shut down, and lends them that.
    torch's threads are divided: a product of a few images does not fill two cores, two such products do. Numbers are
    those of a process that has as many threads as one of the workers.

    Args:
        number: of workers; at most one for each of torch's threads is of use.
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
        """Raise :class:`Stopped` in work that goes on after the rest was given up."""
        if self.stopped.is_set():
            raise Stopped


@contextmanager
def side_by_side(tasks: int, memory: int, possible: bool, device: torch.device) -> Iterator[Executor]:
    """Workers for as many tasks as threads and memory allow; :class:`Here` where that is one at a time.

    Args:
        tasks: number of tasks.
        memory: bytes that each of them needs beside its share of the budget of tapes.
        possible: whether they leave the model alone.

    An error, or Ctrl-C, inside the context stops the work under way at its next look.
    """
    number = min(tasks, torch.get_num_threads(), max(1, memory_budget(device) // max(1, memory)))
    if not possible or number < 2 or device.type != "cpu":
        yield Here()
        return
    # Entered here, because kernels of attention are chosen for the whole process: the first worker to end would
    # give the others back the fused ones, which have no second derivative.
    with twice_differentiable(written_out=False), Workers(number) as workers:
        try:
            yield workers
        except BaseException:
            workers.stopped.set()
            workers.shutdown(wait=True, cancel_futures=True)
            raise
