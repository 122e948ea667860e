"""A training in progress, and the folder that stores it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharpness.checkpoints import Manifest, save_checkpoint
from sharpness.data import LongTailData
from sharpness.engine import distributed
from sharpness.engine.class_sums import ClassSums
from sharpness.flattening.spectral_normalization import ordinary_state
from sharpness.methods import Recipe, Stage
from sharpness.methods.events import events
from sharpness.models import Classifier
from sharpness.training.epoch import accuracy_row
from sharpness.training.manifest import at_present
from sharpness.training.state import RunFolder, RunState
from sharpness.training.watched import Watcher, all_trainable


@dataclass
class Run:
    """A training in progress: the network, its data on the device, its state, and the folder that stores them.

    Attributes:
        description: the constant part of the manifest.
        every: number of epochs between snapshots; None for no snapshots.
        test_every: number of epochs between tests.
        watcher: observer that is called after every epoch.
        shards: number of shards of a batch.
    """

    recipe: Recipe
    network: Classifier
    data: LongTailData
    state: RunState
    folder: RunFolder
    seed: int
    precision: str
    description: Manifest
    every: int | None = None
    test_every: int = 1
    watcher: Watcher | None = None
    shards: int = 1

    @property
    def device(self) -> torch.device:
        return self.data.train.images.device

    @property
    def saved_state(self) -> Path:
        """Path of the saved state, for messages."""
        return self.folder.path / "state.pt"

    @property
    def counts(self) -> Tensor:
        """Number of training images of each class (C,), on the device."""
        return torch.tensor(self.data.train_counts, device=self.device)

    def keep(self, path: Path, **more: Any) -> None:
        """Write a checkpoint of the current weights with additional manifest fields; only the first process writes."""
        if distributed.rank():
            return
        description = at_present(self.description, self.recipe, self.state, **more)
        save_checkpoint(path, self.network, description, ordinary_state(self.network))

    def snapshot_due(self, epochs: int) -> bool:
        """Return True if a snapshot is due after this number of epochs of all stages."""
        return bool(self.every) and epochs % (self.every or 1) == 0

    def keep_snapshot(self) -> None:
        """Write a snapshot, if one is due after the current number of epochs."""
        if self.snapshot_due(len(self.state.history)):
            self.keep(self.folder.snapshot(len(self.state.history)))

    def save(self) -> None:
        """Write the state; only the first process writes."""
        if not distributed.rank():
            self.folder.save(self.state)

    def note(self, stage: Stage, epoch: int, lr: float, loss: float, tested: ClassSums) -> None:
        """Add an epoch to the history and its weights to the state, write a due snapshot, and call the watcher."""
        row = {"stage": stage.name, "epoch": epoch, "lr": lr, "loss": loss}
        self.state.history.append({**row, **accuracy_row(tested, self.data)})
        self.state.epoch, self.state.model = epoch, self.network.state_dict()
        self.keep_snapshot()
        if self.watcher is not None:
            done = len(self.state.history)
            with all_trainable(self.network):
                # A stage without epochs has no learning rate; a cosine may end at 0.
                self.watcher.step(done, lr if epoch else None, events(self.recipe)[done - 1])
            self.state.watched = self.watcher.state_dict()
