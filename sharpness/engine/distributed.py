"""Sums over several processes: every rank takes its share of the samples, and all ranks get the total.

Start with ``torchrun --nproc-per-node 2 -m sharpness ...``, or call ``start()`` in a script of your own. Random
vectors come from seeded CPU generators, so all ranks ask for the same products and hold the same results.
"""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import Tensor


def start() -> None:
    """Join the process group that torchrun describes in the environment; without one do nothing."""
    if "RANK" not in os.environ or dist.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def stop() -> None:
    """Leave the process group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """This process's number among those that share the work; 0 of a single one."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """How many processes share the work."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def share(indices: Tensor) -> Tensor:
    """This rank's part of some sample indices; all of them in a single process."""
    return indices[rank() :: world_size()]


def total(part: Tensor) -> Tensor:
    """The sum of every rank's ``part``."""
    if world_size() == 1:
        return part
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    moved = part.to(device)
    dist.all_reduce(moved)
    return moved.to(part.device)
