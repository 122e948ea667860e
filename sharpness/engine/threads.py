"""Parallel batches, one thread each."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import TypeVar

import torch

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
