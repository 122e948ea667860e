"""Threads for independent work on one model: each with its share of torch's threads and of memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

from sharpness.engine.double_backward import twice_differentiable
from sharpness.engine.memory import memory_budget, shared_by
from sharpness.engine.undisturbed import lent


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
