"""A watcher of a training, such as a monitor of its sharpness: what the loop asks of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from torch import nn

from sharpness.data import LongTailData


class Watcher(Protocol):
    """An observer of the network after every epoch, which leaves it as it was; its state resumes with the run."""

    def step(self, epoch: float | None = None, lr: float | None = None, event: str = "") -> Any:
        """Look at the network after an epoch, counted over all stages."""

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors, as files of runs hold them."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state saved by :meth:`state_dict`."""


#: Makes a watcher of a network, with the data that it is trained on.
MakeWatcher = Callable[[nn.Module, LongTailData], Watcher]


@contextmanager
def all_trainable(network: nn.Module) -> Iterator[None]:
    """Every parameter in scope of derivatives, those that the stage has frozen included: a curve over stages is of the
    same parameters throughout.
    """
    frozen = [p for p in network.parameters() if p.is_floating_point() and not p.requires_grad]
    try:
        for p in frozen:
            p.requires_grad_(True)
        yield
    finally:
        for p in frozen:
            p.requires_grad_(False)
