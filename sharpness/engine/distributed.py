"""Processes that share work: sums over processes, and work that the first process does for all.

Start with ``torchrun --nproc-per-node 2 -m sharpness ...``, or call ``start()`` in your own script. Random vectors come
from seeded CPU generators, so all ranks request the same products and hold the same results.
"""

from __future__ import annotations

import atexit
import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from sharpness.engine.presence import LOST, Presence
from sharpness.errors import LostProcess, UserError

T = TypeVar("T")
_presence: Presence | None = None


def start() -> None:
    """Join the process group that torchrun describes in the environment, if there is one.

    Raises:
        UserError: there are more processes on this machine than GPUs.
    """
    if "RANK" not in os.environ or dist.is_initialized():
        return
    local = int(os.environ.get("LOCAL_RANK", 0))
    if torch.cuda.is_available():
        if local >= torch.cuda.device_count():
            raise UserError(
                f"{os.environ.get('LOCAL_WORLD_SIZE', local + 1)} processes for {torch.cuda.device_count()} GPUs: "
                f"start at most one for each, --nproc-per-node {torch.cuda.device_count()}, or hide the GPUs with "
                "CUDA_VISIBLE_DEVICES= to compute on CPUs"
            )
        torch.cuda.set_device(local)
    global _presence
    store, number, processes = next(dist.rendezvous("env://"))
    dist.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo",
        store=dist.PrefixStore("exchange", store), rank=number, world_size=processes,
    )  # fmt: skip
    _presence = Presence(dist.PrefixStore("presence", store), number, processes)
    atexit.register(_presence.leave)  # a user's script need not call stop()


def stop() -> None:
    """Leave the process group, if there is one."""
    if _presence is not None:
        _presence.leave()
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def tell(message: str) -> None:
    """Print a line to file descriptor 2 from only one of the processes."""
    if _presence is not None:
        _presence.tell(message)


def told(message: str) -> None:
    """Report an error: a process other than the first prints it, unless the first one reports an error as well.

    Normally only the first process of a command prints, but an error may occur only in another one.
    """
    if _presence is not None:
        _presence.told(message)


def rank() -> int:
    """Return this process's number among those that share the work; 0 for a single process."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes that share the work."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def share(indices: Tensor) -> Tensor:
    """Return this rank's part of some sample indices; all of them in a single process."""
    return indices[rank() :: world_size()]


def consecutive(count: int) -> range:
    """Return this rank's contiguous part of the numbers below ``count``, a multiple of the number of processes."""
    each = count // world_size()
    return range(rank() * each, (rank() + 1) * each)


def total(part: Tensor) -> Tensor:
    """Return the sum of every rank's ``part``.

    Raises:
        UserError: another process has ended.
    """
    if world_size() == 1:
        return part
    moved = part.to(_device())
    if moved is part:
        moved = part.clone()
    with _together():
        dist.all_reduce(moved)
    return moved.to(part.device)


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Set tensors in place to their values in the first process."""
    if world_size() == 1:
        return
    for tensor in tensors:
        moved = tensor.detach().to(_device()).contiguous()
        with _together():
            dist.broadcast(moved, 0)
        tensor.data.copy_(moved)


def on_first(function: Callable[[], T]) -> T:
    """Call a function in the first process only; all processes return its result or raise its exception."""
    if world_size() == 1:
        return function()
    found: list[tuple[T | None, BaseException | None]] = [(None, None)]
    if rank() == 0:
        try:
            found = [(function(), None)]
        except Exception as error:
            found = [(None, _sendable(error))]
    with _together():
        dist.broadcast_object_list(found, 0, device=_device())
    value, raised = found[0]
    if raised is not None:
        raise raised
    return value  # type: ignore[return-value]


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _device() -> torch.device:
    """The device on which the process group exchanges tensors."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


@contextmanager
def _together() -> Iterator[None]:
    """Turn an error of an exchange into one line: another process has ended."""
    try:
        yield
    except RuntimeError as error:
        raise LostProcess(LOST) from error
