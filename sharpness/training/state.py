"""States of runs, saved after every epoch, from which an interrupted run resumes exactly.

All random numbers of an epoch come from generators seeded by (seed, stage, epoch). The state therefore only consists of
weights, buffers, momentum, the weight average, the history and the state of an observer.
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
from sharpness.files import refusal, remove_abandoned, write_archive, write_atomically
from sharpness.locks import only_process
from sharpness.training.believed import damaged
from sharpness.untrusted.checksums import checksum, is_whole, sealed
from sharpness.untrusted.plain_json import parse_json
from sharpness.untrusted.refused import Refused
from sharpness.untrusted.regular_files import read_regular

#: Maximum size of the description of a run, in bytes.
DESCRIPTION = 2**20


def epoch_generator(seed: int, stage: int, epoch: int, of: str = "") -> torch.Generator:
    """Return a CPU generator for the random numbers of one epoch; ``of`` selects another sequence of the epoch."""
    digest = hashlib.sha256(f"{seed}/{stage}/{epoch}{of}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def run_name(
    method: str,
    flatten: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    augmentation: str | None = None,
    shards: int = 1,
    pretrained: bool = False,
) -> str:
    """Return the default folder name of a run, which distinguishes it from others on the same data.

    Args:
        method: name of the method.
        flatten: names of flattening operations.
        options: options of the method.
        seed: seed of the run.
        augmentation: augmentation, if it is not the usual one of the data set.
        shards: number of shards of a batch.
        pretrained: whether training starts from the weights of a file.

    >>> run_name("ldam-drw", ["sam:0.1", "swa"], seed=2), run_name("cc-sam", options={"stage2": False})
    ('ldam-drw+sam-0.1+swa-seed2', 'cc-sam-stage2=false-seed0')
    """
    extras = [*(f"{k}={v}" for k, v in (options or {}).items()), *([augmentation] if augmentation else [])]
    extras += [*([f"shards={shards}"] if shards != 1 else []), *(["pretrained"] if pretrained else [])]
    words = ["+".join([method, *flatten]), *extras, f"seed{seed}"]
    return re.sub(r"[^\w.+=-]", "-", "-".join(words).lower())


@dataclass
class RunState:
    """The progress of a run: ``epoch`` epochs of stage ``stage`` are complete."""

    stage: int = 0
    epoch: int = 0
    model: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    average: dict[str, Any] = field(default_factory=dict)  # running average of the weights, if the stage has one
    history: list[dict[str, Any]] = field(default_factory=list)
    watched: dict[str, Any] = field(default_factory=dict)  # the state of the observer


class RunFolder:
    """The folder of a run: ``run.json``, ``state.pt`` (until it ends), ``history.csv``, ``last.pt``, ``snapshots/``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.result = path / "last.pt"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Create the folder, and prevent other processes from training in it.

        Raises:
            UserError: the folder cannot be created, or another process is training in it.
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
        """Claim the folder for this run; return the state to continue from, or None if the run is finished.

        Raises:
            UserError: the folder holds another run, an unfinished one without ``resume``, foreign files, or a damaged
                description or state.
        """
        plan = self.path / "run.json"
        # Converted through JSON, which turns tuples into lists, so that equal settings compare equal.
        asked = json.loads(json.dumps(identity))
        if not plan.exists():
            # A process that was killed while writing the description leaves a partial file, but no run.
            remove_abandoned(self.path, plan.name)
            if self.path.is_dir() and any(self.path.iterdir()):
                raise UserError(f"{self.path} is not empty and holds no run: choose another output folder")
            text = json.dumps(identity, indent=1)
            write_atomically(plan, lambda partial: partial.write_text(text + "\n"))
            return RunState()
        there = self._description()
        for name in [*asked, *(name for name in there if name not in (*asked, "snapshots"))]:
            held, wanted = there.get(name), asked.get(name)
            if name == "normalization" and held is None:
                continue  # begun by 1.0.0, which did not record it
            if held != wanted:
                difference = f"{shown(name)} is {shown(repr(held), 200)}, asked for {shown(repr(wanted), 200)}"
                raise UserError(
                    f"{self.path} holds a different run ({difference}): choose another output folder or delete it "
                    f"({plan.name} says which it holds)"
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
                f"{self.path} holds this run unfinished, after epoch {len(saved.history)}: pass --resume to continue "
                "or delete it"
            )
        return saved

    def _description(self) -> dict[str, Any]:
        """Read ``run.json``."""
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
        """Read the state, and check that it is complete and of this run; earlier versions have no checksum."""
        content = read_safely(path)
        # Files of earlier versions have no state of an observer.
        names = {f.name for f in fields(RunState)} - {"watched"}
        if not isinstance(content, dict) or not names <= content.keys():
            raise damaged(path, "it lacks a part")
        if content.keys() - {"watched"} != names:
            if content.keys() - {"watched"} != {*names, "run", "checksum"} or not is_whole(content):
                raise damaged(path, "it was altered after it was written")
            if content["run"] != checksum(identity):
                raise damaged(path, "it is of another run")
        return RunState(**{name: value for name, value in content.items() if name not in ("run", "checksum")})

    def save(self, state: RunState) -> None:
        """Write the history, then the state, so that the history never lacks an epoch of the state."""
        self.save_history(state)
        kept = tree_map_only(torch.Tensor, torch.Tensor.cpu, vars(state))  # files must not depend on a device
        write_archive(sealed({**kept, "run": checksum(self._description())}), self.path / "state.pt")

    def save_history(self, state: RunState) -> str:
        """Write the history, and return its SHA-256."""
        text = pd.DataFrame(state.history).to_csv(index=False)
        write_atomically(self.path / "history.csv", lambda partial: partial.write_bytes(text.encode()))
        return hashlib.sha256(text.encode()).hexdigest()

    def finish(self) -> None:
        """Delete the state, after ``last.pt`` has been written."""
        (self.path / "state.pt").unlink(missing_ok=True)

    def snapshots(self) -> int | None:
        """Return the number of epochs between snapshots; None if the run has no snapshots."""
        return self._description().get("snapshots")

    def snapshot(self, epochs: int) -> Path:
        """Return the path of the snapshot after ``epochs`` epochs of all stages."""
        return self.path / "snapshots" / f"epoch-{epochs:04d}.pt"

    def history(self) -> pd.DataFrame:
        return pd.read_csv(self.path / "history.csv")
