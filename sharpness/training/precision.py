"""Precision of training: bfloat16 on hardware that benefits from it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from sharpness.errors import choose

PRECISIONS = ("auto", "float32", "bfloat16")


def resolve_precision(precision: str, device: torch.device, image_size: int) -> str:
    """Resolve ``"auto"`` to ``"float32"`` or ``"bfloat16"``.

    ``"auto"`` selects bfloat16 on GPUs with native support and on CPUs with matrix units (AMX), if images are at
    least 16 pixels wide. For smaller images the conversion costs more than the small convolutions gain.
    """
    choose("precision", precision, PRECISIONS)
    if precision != "auto":
        return precision
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and torch.cpu._is_amx_tile_supported()
    return "bfloat16" if native and image_size >= 16 else "float32"


def autocast(precision: str, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """Return a factory of contexts for forward passes."""
    if precision == "float32":
        return nullcontext
    return lambda: torch.autocast(device.type, torch.bfloat16)
