"""Devices in benchmarks: name, timing of calls, and the two rates that bound all work."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable
from contextlib import contextmanager

import numpy as np
import torch
from workloads import describe

#: Seconds after which a measurement is not repeated further, if it was made at least three times.
ENOUGH = 1.5


def card(device: torch.device) -> list[str]:
    """Describe the GPU, its driver and memory; the processor; and the versions."""
    lines = describe([])
    lines = [line.rstrip(", ") for line in lines]
    if device.type != "cuda":
        return lines
    properties = torch.cuda.get_device_properties(device)
    lines.insert(
        0,
        f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, {properties.multi_processor_count} "
        f"multiprocessors, driver {_driver()}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}",
    )
    return lines


def slug(device: torch.device) -> str:
    """Return a name of the device for files, such as ``nvidia-h100-80gb-hbm3``."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")


def settle(device: torch.device) -> None:
    """Wait until the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(function: Callable[[], object], device: torch.device, repeats: int = 15, warm_up: int = 2) -> float:
    """Return the median time of several synchronised calls, after ``warm_up`` calls."""
    for _ in range(warm_up):
        function()
    settle(device)
    times: list[float] = []
    while len(times) < repeats and (len(times) < 3 or sum(times) < ENOUGH):
        start = time.perf_counter()
        function()
        settle(device)
        times.append(time.perf_counter() - start)
    return float(np.median(times))


@contextmanager
def tf32(allowed: bool):
    """Allow or forbid TF32 (10 bits of mantissa) in convolutions and matrix products."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    owners = [cudnn.conv, matmul] if hasattr(cudnn, "conv") else [cudnn, matmul]
    name, value = (
        ("fp32_precision", "tf32" if allowed else "ieee") if hasattr(cudnn, "conv") else ("allow_tf32", allowed)
    )
    before = [getattr(owner, name) for owner in owners]
    try:
        for owner in owners:
            setattr(owner, name, value)
        yield
    finally:
        for owner, old in zip(owners, before, strict=True):
            setattr(owner, name, old)


def bandwidth(device: torch.device, small: bool) -> float:
    """Return the bytes per second, read and written, of a large copy."""
    source = torch.rand(2**22 if small else 2**29, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / seconds(lambda: target.copy_(source), device)


def matrix_rate(device: torch.device, dtype: torch.dtype, small: bool, reduced: bool = False) -> float:
    """Return the floating-point operations per second of a large product of random matrices."""
    n = 512 if small else 8192
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    with tf32(reduced):
        return 2 * n**3 / seconds(lambda: a @ b, device)


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.split("\n")[0] or "unknown"
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
