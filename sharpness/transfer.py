"""Transfers from the CPU to a device that do not make the CPU wait."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on ``device``.

    From pageable memory a copy to a GPU ends only when all that was asked of the GPU before is done; from pinned memory
    it takes its place in the queue.
    """
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
