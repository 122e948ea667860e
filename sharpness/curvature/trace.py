r"""The trace of a symmetric linear operator, estimated with random signs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sharpness.errors import UserError


@dataclass(frozen=True)
class TraceEstimate:
    """``value`` with its standard error over probes, and the probes themselves."""

    value: float
    standard_error: float
    samples: np.ndarray  # (probes,)


def hutchinson(
    product: Callable[[Tensor], Tensor],
    size: int,
    probes: int = 30,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    callback: Callable[[int], None] | None = None,
) -> TraceEstimate:
    r"""The mean of ``z' A z`` over vectors z of random signs (Hutchinson 1989).

    Unbiased, with variance :math:`2 \sum_{i \ne j} A_{ij}^2` per probe; the standard error is the sample's
    standard deviation over the square root of the number of probes. A diagonal operator is traced exactly:

    >>> hutchinson(lambda v: torch.tensor([3.0, 1.0, -2.0], dtype=v.dtype) * v, 3, probes=2).value
    2.0
    """
    if probes < 2:
        raise UserError(f"probes={probes}: a standard error needs at least 2")
    generator = generator or torch.Generator().manual_seed(0)
    samples = np.empty(probes)
    for i in range(probes):
        z = torch.randint(0, 2, (size,), generator=generator).mul_(2).sub_(1).to(device=device, dtype=dtype)
        samples[i] = float(z.double() @ product(z).double())
        if callback is not None:
            callback(1)
    return TraceEstimate(float(samples.mean()), float(samples.std(ddof=1) / probes**0.5), samples)
