"""What a run leaves behind after every epoch, so that a killed one goes on where it was, bit for bit.

All random numbers of an epoch come from generators seeded by (seed, stage, epoch). So weights, buffers, momentum,
the average of weights and the history are the whole state.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch.utils._pytree import tree_map_only

from sharpness.checkpoints import read_safely
from sharpness.errors import UserError
from sharpness.files import write_atomically


def epoch_generator(seed: int, stage: int, epoch: int, of: str = "") -> torch.Generator:
    """The random numbers of one epoch, on the CPU whatever the device; with ``of`` others of the same epoch."""
    digest = hashlib.sha256(f"{seed}/{stage}/{epoch}{of}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def run_name(
    method: str,
    flatten: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    augmentation: str | None = None,
) -> str:
    """What tells a run from others on the same data, as the name of a folder.

    Args:
        augmentation: where it is not the data set's usual one.

    >>> run_name("ldam-drw", ["sam:0.1", "swa"], seed=2), run_name("cc-sam", options={"stage2": False})
    ('ldam-drw+sam-0.1+swa-seed2', 'cc-sam-stage2=false-seed0')
    """
    told = [*(f"{k}={v}" for k, v in (options or {}).items()), *([augmentation] if augmentation else [])]
    words = ["+".join([method, *flatten]), *told, f"seed{seed}"]
    return re.sub(r"[^\w.+=-]", "-", "-".join(words).lower())


@dataclass
class RunState:
    """Where a run stands: ``epoch`` epochs of stage ``stage`` are done."""

    stage: int = 0
    epoch: int = 0
    model: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    average: dict[str, Any] = field(default_factory=dict)  # of the stage's weights, where it averages
    history: list[dict[str, Any]] = field(default_factory=list)


class RunFolder:
    """The folder of one run: ``run.json``, ``state.pt`` while it is under way, ``history.csv``, ``last.pt``, and
    ``snapshots/`` if the run keeps them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.result = path / "last.pt"

    def claim(self, identity: dict[str, Any], resume: bool) -> RunState | None:
        """Make the folder this run's own; the state to go on from, or None if the run is finished.

        Raises:
            UserError: the folder holds another run, an unfinished one without ``resume``, or foreign files.
        """
        plan = self.path / "run.json"
        if not plan.exists():
            if self.path.is_file() or (self.path.is_dir() and any(self.path.iterdir())):
                raise UserError(f"{self.path} is not empty and holds no run: choose another output folder")
            self.path.mkdir(parents=True, exist_ok=True)
            text = json.dumps(identity, indent=1)
            write_atomically(plan, lambda partial: partial.write_text(text + "\n"))
            return RunState()
        try:
            there = dict(json.loads(plan.read_text()))
        except ValueError:
            raise UserError(f"{plan} is not a run's description: delete the folder or choose another one") from None
        asked = json.loads(json.dumps(identity))
        for name in [*asked, *(name for name in there if name not in (*asked, "snapshots"))]:
            held, wanted = there.get(name), asked.get(name)
            if held != wanted:
                raise UserError(
                    f"{self.path} holds a different run ({name} is {held!r}, asked for {wanted!r}): "
                    "choose another output folder or delete it"
                )
        if self.result.exists():
            return None
        state = self.path / "state.pt"
        if not state.exists():
            return RunState()
        saved = RunState(**read_safely(state))
        if not resume:
            raise UserError(
                f"{self.path} holds this run unfinished, after epoch {len(saved.history)}: pass --resume to go on "
                "or delete it"
            )
        return saved

    def save(self, state: RunState) -> None:
        """Write the history and the state; the state last, so that the history never lacks an epoch of it."""
        frame = pd.DataFrame(state.history)
        write_atomically(self.path / "history.csv", lambda partial: frame.to_csv(partial, index=False))
        kept = tree_map_only(torch.Tensor, torch.Tensor.cpu, vars(state))  # a file names no device
        write_atomically(self.path / "state.pt", lambda partial: torch.save(kept, partial))

    def finish(self) -> None:
        """Forget the state: ``last.pt`` has been written."""
        (self.path / "state.pt").unlink(missing_ok=True)

    def snapshots(self) -> int | None:
        """From how many epochs to the next the run in this folder keeps a snapshot; None if it keeps none."""
        return json.loads((self.path / "run.json").read_text()).get("snapshots")

    def snapshot(self, epochs: int) -> Path:
        """Where the weights after so many epochs of all stages are kept."""
        return self.path / "snapshots" / f"epoch-{epochs:04d}.pt"

    def history(self) -> pd.DataFrame:
        return pd.read_csv(self.path / "history.csv")
