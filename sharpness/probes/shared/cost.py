"""Cost estimates of probes: their passes are timed on a few samples before they start."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from sharpness.objective import Objective

#: Samples that are timed, at most.
SAMPLES = 64
logger = logging.getLogger("sharpness")


@dataclass(frozen=True)
class Cost:
    """Seconds for one sample of a forward pass, of a gradient, and of one of many curvature products."""

    forward: float
    gradient: float
    product: float

    @classmethod
    def of(cls, objective: Objective, curvature: bool = True, gradients: bool = True) -> Cost:
        """Time the passes on samples spread over the data; those that are not needed are 0."""
        chosen = torch.linspace(0, objective.num_samples - 1, min(SAMPLES, objective.num_samples)).long().unique()
        part = objective.restrict(chosen)
        forward, product = _seconds(part.evaluate), 0.0
        gradient = _seconds(part.gradient) if gradients else 0.0
        if curvature:
            vector = torch.ones(part.num_parameters, dtype=part.dtype, device=part.device)
            with part.operator() as operator:
                operator(vector)  # keeps what later products reuse
                product = _seconds(lambda: operator(vector))
        return cls(*(seconds / part.num_samples for seconds in (forward, gradient, product)))

    def seconds(self, forwards: float, gradients: float = 0, products: float = 0) -> float:
        """For each sample."""
        return forwards * self.forward + gradients * self.gradient + products * self.product


def announce(what: str, seconds: float) -> None:
    """One line on what comes and how long it should take."""
    span = f"{seconds / 60:.1f} minutes" if seconds >= 60 else f"{seconds:.0f} seconds" if seconds >= 2 else "a second"
    logger.info("%s, about %s", what, span)


def _seconds(work: Callable[[], object]) -> float:
    """Of one call; of a second one if that is cheap, because the first one may trace and allocate."""
    first = _once(work)
    return first if first > 1 else min(first, _once(work))


def _once(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    result = work()
    if isinstance(result, torch.Tensor) and result.is_cuda:
        torch.cuda.synchronize(result.device)
    return time.perf_counter() - start
