"""Isolation of computations: one at a time in a process, without the caller's autocast or random state.

Tracing, ``functional_call`` and moved weights change modules temporarily, which other threads must not see. The
caller's autocast would round the results.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch

from sharpness.generators import generators_kept

#: Types of devices that have their own autocast.
DEVICES = ("cpu", "cuda", "mps", "xpu")
_lock = threading.RLock()
_local = threading.local()
_default: ContextVar[torch.device | None] = ContextVar("default device", default=None)


@contextmanager
def lent() -> Iterator[None]:
    """Let this thread work on behalf of a waiting thread that is ``undisturbed``, without taking the lock."""
    _local.lent = True
    try:
        yield
    finally:
        _local.lent = False


@contextmanager
def undisturbed(kept: bool = True) -> Iterator[None]:
    """Exclude other threads, the caller's autocast, default device and compiler; may be nested. Also a decorator.

    Args:
        kept: restore the global random number generators at the end, because a model or data may have drawn from them.

    >>> with torch.autocast("cpu", torch.bfloat16), undisturbed():
    ...     (torch.ones(1, 1) @ torch.ones(1, 1)).dtype
    torch.float32
    """
    lends, depth = getattr(_local, "lent", False), getattr(_local, "depth", 0)
    generators = generators_kept() if kept and not lends and not depth else nullcontext()
    with nullcontext() if lends else _lock, generators, without_autocast(), _made_on_the_cpu(), uncompiled():
        _local.depth = depth + kept
        try:
            yield
        finally:
            _local.depth = depth


@contextmanager
def without_autocast() -> Iterator[None]:
    """Disable autocast, and restore it afterwards."""
    with ExitStack() as stack:
        for device in DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run compiled functions of the caller eagerly: compiled code has no second derivative and one backward pass."""
    dynamo = sys.modules.get("torch._dynamo")  # imported by the first torch.compile, which takes a second
    if dynamo is None or getattr(_local, "lent", False):
        yield
        return
    with torch.compiler.set_stance("force_eager"), dynamo.config.patch(error_on_nested_fx_trace=False):
        yield


@contextmanager
def _made_on_the_cpu() -> Iterator[None]:
    """Create tensors without a stated device on the CPU, whatever ``torch.set_default_device`` says."""
    usual = torch.get_default_device()
    if usual.type == "cpu":
        yield
        return
    before = _default.get()
    token = _default.set(before or usual)
    try:
        with torch.device("cpu"):
            yield
    finally:
        _default.reset(token)


def default_device() -> AbstractContextManager[Any]:
    """Return a context with the caller's default device, for the caller's own code: a model may rely on it."""
    device = _default.get()
    return nullcontext() if device is None else torch.device(device)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global CPU generator, and restore it afterwards; excludes other threads.

    >>> before = torch.get_rng_state()
    >>> with seeded(1):
    ...     first = torch.rand(2)
    >>> torch.equal(first, torch.rand(2, generator=torch.Generator().manual_seed(1)))
    True
    >>> torch.equal(torch.get_rng_state(), before)
    True
    """
    with _lock, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Delay Ctrl-C until the end of a few lines that must not be interrupted; only the main thread receives it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[object] = []
    before = signal.signal(signal.SIGINT, lambda *of: received.append(of))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if received:
            signal.raise_signal(signal.SIGINT)


def _renew() -> None:
    """Replace the lock in a forked process: the thread that may have held it does not exist there."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
