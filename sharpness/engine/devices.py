"""Compute devices, and full float32 precision on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from sharpness.engine.undisturbed import undisturbed
from sharpness.errors import UserError


def resolve_device(device: str | torch.device | None) -> torch.device:
    """Return the given device; by default a GPU if there is one, otherwise the CPU.

    Raises:
        UserError: the device is not available.
    """
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {str(device)!r} is not to be had here ({str(error).splitlines()[0][:80]})") from None
    return chosen


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute in full float32 precision and deterministically, inside ``undisturbed``; restore settings afterwards.

    By default, torch rounds float32 in convolutions to the 10 bits of TF32, which causes errors of 1e-3 in a
    Hessian-vector product, and chooses kernels whose order of summation depends on the timing of threads. Also usable
    as a decorator.
    """
    kernels = [(torch.backends.cudnn, "deterministic", True), (torch.backends.cudnn, "benchmark", False)]
    with undisturbed(), _set([*_formats(), *kernels]) if torch.cuda.is_initialized() else nullcontext():
        yield


def exact_float32() -> AbstractContextManager[None]:
    """Compute in full float32 precision on a GPU, where convolutions use TF32 by default; restore it afterwards."""
    return _set(_formats())


@contextmanager
def _set(settings: Sequence[tuple[Any, str, Any]]) -> Iterator[None]:
    """Set attributes, given as (owner, name, value), and restore them afterwards."""
    before = [getattr(owner, name) for owner, name, _ in settings]
    try:
        for owner, name, value in settings:
            setattr(owner, name, value)
        yield
    finally:
        for (owner, name, _), value in zip(settings, before, strict=True):
            setattr(owner, name, value)


def _formats() -> list[tuple[Any, str, Any]]:
    """Return the settings that reduce float32 precision, with their exact values: flags before torch 2.9."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    if hasattr(cudnn, "conv"):
        return [(owner, "fp32_precision", "ieee") for owner in (cudnn.conv, cudnn.rnn, matmul)]
    return [(owner, "allow_tf32", False) for owner in (cudnn, matmul)]
