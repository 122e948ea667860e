"""Where to compute."""

from __future__ import annotations

import torch

from sharpness.errors import UserError


def resolve_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, else a GPU if there is one, else the CPU.

    Raises:
        UserError: no such device here.
    """
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {str(device)!r} is not to be had here ({str(error).splitlines()[0][:80]})") from None
    return chosen
