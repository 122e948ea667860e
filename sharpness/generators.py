"""The global random number generators of torch, NumPy and Python."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def generators_kept(*others: torch.Generator | None) -> Iterator[None]:
    """Restore the states of the global generators and of the given ones at the end, also after an error.

    >>> with generators_kept():
    ...     first = torch.rand(()), np.random.rand(), random.random()
    >>> first == (torch.rand(()), np.random.rand(), random.random())
    True
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    known = {generator: generator.get_state() for generator in others if generator is not None}
    array_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        for generator, state in known.items():
            generator.set_state(state)
        np.random.set_state(array_state)
        random.setstate(python_state)
