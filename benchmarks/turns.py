"""Contenders in processes of their own.

The processes take turns, so that a busy machine hits all of them alike, and none works in memory, caches or threads
that another left behind.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context


def process(prepare: Callable[..., None], *arguments: object) -> ProcessPoolExecutor:
    """A fresh process, after ``prepare(*arguments)``; what it prepares stays for every call."""
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=prepare, initargs=arguments)


def timed(function: Callable[..., object], *arguments: object) -> float:
    """Seconds of one call."""
    gc.collect()
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start
