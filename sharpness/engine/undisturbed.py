"""Isolation of computations: one at a time in a process, without the caller's autocast or random state.

Tracing, ``functional_call`` and moved weights change modules for a while, which another thread must not see; a
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

#: Kinds of devices that have an autocast of their own.
DEVICES = ("cpu", "cuda", "mps", "xpu")
_lock = threading.RLock()
_local = threading.local()
_default: ContextVar[torch.device | None] = ContextVar("default device", default=None)


@contextmanager
def lent() -> Iterator[None]:
    """Let this thread work in the turn of the one that waits for it: :func:`undisturbed` excludes it no longer."""
    _local.lent = True
    try:
        yield
    finally:
        _local.lent = False


@contextmanager
def undisturbed(kept: bool = True) -> Iterator[None]:
    """Exclude other threads, the caller's autocast, default device and compiler; may be nested. Also a decorator.

    Args:
        kept: put the global generators of random numbers back at the end, from which a model or data may have drawn.

    >>> with torch.autocast("cpu", torch.bfloat16), undisturbed():
    ...     (torch.ones(1, 1) @ torch.ones(1, 1)).dtype
    torch.float32
    """
    lends, depth = getattr(_local, "lent", False), getattr(_local, "depth", 0)
    generators = generators_kept() if kept and not lends and not depth else nullcontext()
    with nullcontext() if lends else _lock, generators, without_autocast(), _made_on_the_cpu(), _uncompiled():
        _local.depth = depth + kept
        try:
            yield
        finally:
            _local.depth = depth


@contextmanager
def without_autocast() -> Iterator[None]:
    """Switch off autocast, and restore it afterwards."""
    with ExitStack() as stack:
        for device in DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Run what the caller gave to ``torch.compile`` as it was written: compiled code has no second derivative."""
    dynamo = sys.modules.get("torch._dynamo")  # loaded by the first torch.compile, at a second's cost
    if dynamo is None or getattr(_local, "lent", False):
        yield
        return
    with torch.compiler.set_stance("force_eager"), dynamo.config.patch(error_on_nested_fx_trace=False):
        yield


@contextmanager
def _made_on_the_cpu() -> Iterator[None]:
    """Make tensors on the CPU where no device is named, whatever ``torch.set_default_device`` says."""
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
    """The caller's default device again, for code of the caller's own: a model may rely on it."""
    device = _default.get()
    return nullcontext() if device is None else torch.device(device)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generator, and restore it afterwards; one thread at a time.

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
    """Delay Ctrl-C to the end of a few lines that must not stop halfway; only the main thread receives it at all."""
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
    """Replace the lock in a forked process, which has none of the threads that may have held it."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
