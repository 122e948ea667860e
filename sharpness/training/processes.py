"""Processes that share a training."""

from __future__ import annotations

import torch

from sharpness.engine import distributed
from sharpness.engine.devices import resolve_device
from sharpness.errors import UserError


def own_device(device: str | torch.device | None) -> torch.device:
    """Return the device of this process; under torchrun each process has its own GPU.

    Raises:
        UserError: the device is not available, or one GPU is given for several processes.
    """
    chosen = resolve_device(device)
    if (
        distributed.world_size() > 1
        and chosen.type == "cuda"
        and chosen.index not in (None, torch.cuda.current_device())
    ):
        raise UserError(f"device={str(chosen)!r} is one GPU for {distributed.world_size()} processes: give 'cuda', of "
                        "which each takes its own")  # fmt: skip
    return chosen


def require_shares(shards: int) -> None:
    """Refuse a number of shards that cannot be divided equally among the processes.

    Raises:
        UserError: the number of shards is not a multiple of the number of processes.
    """
    processes = distributed.world_size()
    if shards % processes:
        least = processes * -(-shards // processes)
        divisors = " or ".join(str(n) for n in range(1, shards + 1) if shards % n == 0)
        raise UserError(
            f"{processes} processes cannot share {shards} shard{'s' * (shards > 1)} of a batch alike: give "
            f"shards={least} (--shards {least}), which is part of the recipe, or start {divisors} processes"
        )
