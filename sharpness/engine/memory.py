"""Memory budgets for tapes, and batch sizes."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from numbers import Real
from pathlib import Path

import torch
from torch import Tensor, nn

from sharpness.errors import UserError

#: Bytes of the largest activation of one pass: it should fit in a CPU's cache, and keep a GPU busy.
ACTIVATION = {"cpu": 2 * 2**20, "cuda": 128 * 2**20}
LARGEST_BATCH = 1024
_local = threading.local()
_node = {"sharers": 1}


def memory_budget(device: torch.device, limit: float | None = None) -> int:
    """Return the bytes that tapes may use: ``limit`` in GiB, or half of the memory that is now free on the device.

    The budget is divided among threads; without a limit, also among the processes of a machine.
    """
    own = 1 if limit is not None else _processes(device)  # a limit given by the user applies to every process
    return _budget(device, limit) // (getattr(_local, "sharers", 1) * own)


def _processes(device: torch.device) -> int:
    """Return the number of processes that share the memory: those of torchrun or of a cluster on this machine."""
    launched = int(os.environ.get("LOCAL_WORLD_SIZE", "1") or 1)
    sharers = max(_node["sharers"], launched)
    return -(-sharers // max(1, torch.cuda.device_count())) if device.type == "cuda" else sharers


@contextmanager
def node_shared_by(processes: int) -> Iterator[None]:
    """Divide this process's budgets by a number of processes on the machine, unless a limit is given."""
    before, _node["sharers"] = _node["sharers"], processes
    try:
        yield
    finally:
        _node["sharers"] = before


@contextmanager
def shared_by(workers: int) -> Iterator[None]:
    """Divide this thread's budgets by a number of workers.

    >>> with shared_by(2):
    ...     memory_budget(torch.device("cpu"), limit=1.0) / 2**30
    0.5
    """
    _local.sharers = workers
    try:
        yield
    finally:
        _local.sharers = 1


def _budget(device: torch.device, limit: float | None) -> int:
    if limit is not None:
        if not isinstance(limit, Real) or not 0 <= limit < math.inf:
            raise UserError(f"memory={limit!r}: give GiB, 0 to keep nothing between products")
        return int(float(limit) * 2**30)
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # reserved by torch for reuse
        return (torch.cuda.mem_get_info(device)[0] + unused) // 2
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        free = 4 * 2**30
    return min([free, *_allowed()]) // 2


def _allowed() -> list[int]:
    """Return limits in bytes that Slurm or a container sets on the memory of a job, as far as there are any."""
    found = []
    with suppress(OSError, ValueError):
        most = int(Path("/sys/fs/cgroup/memory.max").read_text())
        found.append(max(0, most - int(Path("/sys/fs/cgroup/memory.current").read_text())))
    with suppress(KeyError, ValueError):
        found.append(int(os.environ["SLURM_MEM_PER_NODE"]) * 2**20)
    return found


def fastest_batch(model: nn.Module, x: Tensor) -> int:
    """Return the largest batch size, a power of two, whose largest activation is at most ``ACTIVATION`` bytes.

    Computed from the activations of one sample rather than timed, so that repeated calls give bitwise equal results.

    Args:
        x: one input, shape (1, ...).
    """
    sizes = [max(1, x.numel() * x.element_size())]

    def note(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.numel() * output.element_size())

    # TorchScript modules do not support these hooks.
    hooks = [m.register_forward_hook(note) for m in model.modules() if not isinstance(m, torch.jit.ScriptModule)]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    target = ACTIVATION.get(x.device.type, ACTIVATION["cuda"])
    return max(1, min(LARGEST_BATCH, 2 ** ((target // max(sizes)).bit_length() - 1) if target >= max(sizes) else 1))


def even_batch(samples: int, largest: int, device: torch.device) -> int:
    """Return the size of equal batches of at most ``largest`` samples, enough of them for all threads of a CPU."""
    workers = torch.get_num_threads() if device.type == "cpu" else 1
    batches = max(1, workers * -(-samples // (workers * largest)))
    return max(1, -(-samples // batches))
