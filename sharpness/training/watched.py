"""The interface of an observer of a training, such as a monitor of sharpness."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from torch import nn

from sharpness.data import LongTailData


class Watcher(Protocol):
    """An observer that is called after every epoch and does not change the network; its state resumes with the run."""

    def step(self, epoch: float | None = None, lr: float | None = None, event: str = "") -> Any:
        """Observe the network after an epoch, counted over all stages."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain values and tensors, which can be saved in the files of a run."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state saved by :meth:`state_dict`."""


#: A function from a network and its training data to a watcher.
MakeWatcher = Callable[[nn.Module, LongTailData], Watcher]


@contextmanager
def all_trainable(network: nn.Module) -> Iterator[None]:
    """Enable gradients of all parameters, including those that the stage freezes.

    A curve over several stages then always refers to the same parameters.
    """
    frozen = [p for p in network.parameters() if p.is_floating_point() and not p.requires_grad]
    try:
        for p in frozen:
            p.requires_grad_(True)
        yield
    finally:
        for p in frozen:
            p.requires_grad_(False)
