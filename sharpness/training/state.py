"""What a run leaves behind after every epoch, so that a killed one goes on where it was, bit for bit.

All random numbers of an epoch come from generators seeded by (seed, stage, epoch). So weights, buffers, momentum,
the average of weights and the history are the whole state.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch.utils._pytree import tree_map_only

from sharpness.checkpoints import read_safely
from sharpness.errors import UserError, shown
from sharpness.files import only_process, refusal, remove_abandoned, write_archive, write_atomically
from sharpness.training.believed import damaged
from sharpness.untrusted.checksums import checksum, is_whole, sealed
from sharpness.untrusted.plain_json import parse_json
from sharpness.untrusted.refused import Refused
from sharpness.untrusted.regular_files import read_regular

#: Largest description of a run that is read, in bytes.
DESCRIPTION = 2**20


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

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder if it is not there, and keep others from training in it.

        Raises:
            UserError: it cannot be made, or another process trains in it.
        """
        if self.path.is_file():
            raise UserError(f"{self.path} is not empty and holds no run: choose another output folder")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise refusal(f"cannot make {self.path}", error) from None
        with only_process(self.path, "trains"):
            yield

    def claim(self, identity: dict[str, Any], resume: bool) -> RunState | None:
        """Make the folder this run's own; the state to go on from, or None if the run is finished.

        Raises:
            UserError: the folder holds another run, an unfinished one without ``resume``, foreign files, or a damaged
                description or state.
        """
        plan = self.path / "run.json"
        asked = json.loads(json.dumps(identity))
        if not plan.exists():
            # A process that was killed while it wrote the description has left no run.
            remove_abandoned(self.path, plan.name)
            if self.path.is_dir() and any(self.path.iterdir()):
                raise UserError(f"{self.path} is not empty and holds no run: choose another output folder")
            text = json.dumps(identity, indent=1)
            write_atomically(plan, lambda partial: partial.write_text(text + "\n"))
            return RunState()
        there = self._description()
        for name in [*asked, *(name for name in there if name not in (*asked, "snapshots"))]:
            held, wanted = there.get(name), asked.get(name)
            if held != wanted:
                told = f"{shown(name)} is {shown(repr(held), 200)}, asked for {shown(repr(wanted), 200)}"
                raise UserError(
                    f"{self.path} holds a different run ({told}): choose another output folder or delete it"
                )
        for folder in (self.path, self.path / "snapshots"):
            remove_abandoned(folder)
        if self.result.exists():
            return None
        state = self.path / "state.pt"
        if not state.exists():
            return RunState()
        saved = self._saved(state, there)
        if not resume:
            raise UserError(
                f"{self.path} holds this run unfinished, after epoch {len(saved.history)}: pass --resume to go on "
                "or delete it"
            )
        return saved

    def _description(self) -> dict[str, Any]:
        """What ``run.json`` says."""
        plan = self.path / "run.json"
        try:
            there = parse_json(read_regular(plan, DESCRIPTION).decode())
            if not isinstance(there, dict):
                raise Refused("is none")
            every = there.get("snapshots", 1)
            if type(every) is not int or every < 1:
                raise Refused("has odd snapshots")
            return there
        except (ValueError, Refused):
            raise UserError(f"{plan} is not a run's description: delete the folder or choose another one") from None
        except OSError as error:
            raise refusal(f"cannot read {plan}", error) from None

    def _saved(self, path: Path, identity: dict[str, Any]) -> RunState:
        """The state in the folder, if it is whole and this run's; those of earlier versions only say what they hold."""
        content = read_safely(path)
        names = [f.name for f in fields(RunState)]
        if not isinstance(content, dict) or not {*names} <= content.keys():
            raise damaged(path, "it lacks a part")
        if content.keys() != {*names}:
            if content.keys() != {*names, "run", "checksum"} or not is_whole(content):
                raise damaged(path, "it was altered after it was written")
            if content["run"] != checksum(identity):
                raise damaged(path, "it is of another run")
        return RunState(**{name: content[name] for name in names})

    def save(self, state: RunState) -> None:
        """Write the history and the state; the state last, so that the history never lacks an epoch of it."""
        self.save_history(state)
        kept = tree_map_only(torch.Tensor, torch.Tensor.cpu, vars(state))  # a file names no device
        write_archive(sealed({**kept, "run": checksum(self._description())}), self.path / "state.pt")

    def save_history(self, state: RunState) -> str:
        """Write the table alone; its fingerprint."""
        text = pd.DataFrame(state.history).to_csv(index=False)
        write_atomically(self.path / "history.csv", lambda partial: partial.write_bytes(text.encode()))
        return hashlib.sha256(text.encode()).hexdigest()

    def finish(self) -> None:
        """Forget the state: ``last.pt`` has been written."""
        (self.path / "state.pt").unlink(missing_ok=True)

    def snapshots(self) -> int | None:
        """From how many epochs to the next the run in this folder keeps a snapshot; None if it keeps none."""
        return self._description().get("snapshots")

    def snapshot(self, epochs: int) -> Path:
        """Where the weights after so many epochs of all stages are kept."""
        return self.path / "snapshots" / f"epoch-{epochs:04d}.pt"

    def history(self) -> pd.DataFrame:
        return pd.read_csv(self.path / "history.csv")
