"""Floating-point operations of a forward pass, and support of bfloat16."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

logger = logging.getLogger("sharpness")


@torch.no_grad()
def forward_flops(model: nn.Module, x: Tensor) -> int:
    """Count the floating-point operations of convolutions, matrix products and attention for inputs ``x``.

    If torch's counter fails, assume 2 per parameter and input, as in a linear layer; the number is only used for
    estimates.
    """
    try:
        with FlopCounterMode(display=False) as counter:
            model(x)
        return counter.get_total_flops()
    except Exception as error:
        logger.debug("operations were not counted: %s", error)
        return 2 * len(x) * sum(p.numel() for p in model.parameters())


def fast_bfloat16(device: torch.device) -> bool:
    """True if the device has instructions for bfloat16 products."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return device.type == "cpu" and any(known.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
