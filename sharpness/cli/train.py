"""``sharpness train``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import sharpness
from sharpness.cli.grouped import grouped
from sharpness.cli.options import (
    AS_JSON,
    Offered,
    OneExample,
    data_options,
    load_described,
    training_options,
    training_settings,
)
from sharpness.cli.output import as_records, as_text, require_folder, save_drawn, say, write
from sharpness.cli.values import pair
from sharpness.errors import UserError
from sharpness.registries import METHODS, OPERATIONS

if TYPE_CHECKING:
    from torch import nn

    from sharpness.data import LongTailData


class Watched:
    """The monitor of a run; its history is written next to the weights after every measurement."""

    def __init__(self, folder: Path, budget: float) -> None:
        self.folder, self.budget = folder, budget
        self.monitor: sharpness.Monitor | None = None

    def __call__(self, network: nn.Module, data: LongTailData) -> sharpness.Monitor:
        self.monitor = sharpness.Monitor(network, data, budget=self.budget, log=self._write)
        return self.monitor

    def _write(self, rows: object) -> None:
        assert self.monitor is not None
        write(self.monitor.history.to_frame(), self.folder / "sharpness.csv")

    def tell(self) -> None:
        """Draw the history, and print its files and the time that it took."""
        if self.monitor is None:
            say("the run was finished before: there was nothing to monitor", err=True)
        elif not self.monitor.measured:
            say(f"nothing was measured: a measurement takes more than {self.budget:g} of this training", err=True)
        else:
            shown = {
                "Shows": "largest eigenvalue of the Hessian over the training, all samples and groups",
                "Images": "8 of every class, each with the weight of those that it stands for",
                "Time": f"{self.monitor.share:.1%} of the training went into {self.monitor.measured} measurements",
            }
            save_drawn(self.monitor.history.plot(), self.folder / "sharpness", shown)
            say(shown["Time"])


@dataclass(frozen=True)
class Course:
    """Settings of a run, named as in :func:`sharpness.train`."""

    resume: bool
    snapshots: int | None
    test_every: int
    shards: int
    pretrained: str | None


@dataclass(frozen=True)
class Watch:
    """Settings of the monitor: whether there is one, and its share of the time."""

    monitor: bool
    budget: float | None

    def of(self, folder: Path) -> Watched | None:
        """Return the monitor of a run, or None."""
        # A budget that has no effect must be refused.
        if self.budget is not None and not self.monitor:
            raise UserError(f"--budget {self.budget:g} is of --monitor: add it")
        return Watched(folder, 0.1 if self.budget is None else self.budget) if self.monitor else None


@click.command(cls=OneExample)
@click.option(
    "--method",
    required=True,
    cls=Offered,
    registry="methods",
    help=f"Method to train with: {', '.join(METHODS.built_in())}, or your own package.module:recipe.",
)
@data_options
@training_options
@click.option(
    "--shards",
    default=1,
    help="Number of shards per batch, shared by torchrun's processes; BatchNorm normalises each shard separately.",
)
@click.option("--seed", type=int, default=0, help="Seed of initial weights, batches and noise.")
@click.option("-o", "--out", type=click.Path(), help="Folder for the run. [default: runs/DATA-METHOD+OPERATIONS-seedS]")
@click.option(
    "--flatten",
    cls=Offered,
    registry="operations",
    help=f"Comma-separated flattening operations, such as sam:0.1,swa: {', '.join(OPERATIONS.built_in())}.",
)
@click.option("--option", "-O", "pairs", multiple=True, help="Option of the method, such as -O scope=all. Repeatable.")
@click.option(
    "--pretrained",
    metavar="FILE",
    help="Initialise from a checkpoint of the same architecture, such as torchvision's ImageNet weights.",
)
@click.option("--resume", is_flag=True, help="Resume an unfinished run.")
@click.option("--test-every", default=1, help="Test every N epochs; the last epoch is always tested.")
@click.option("--monitor", is_flag=True, help="Monitor sharpness during training: OUT/sharpness.csv and .png.")
@click.option("--budget", type=float, help="Maximum fraction of the time spent by --monitor. [default: 0.1]")
@click.option("--snapshots", type=int, help="Keep a checkpoint every N epochs, for history and trajectories.")
@AS_JSON
@grouped(course=Course, watch=Watch)
def train(
    method: str, seed: int, out: str | None, flatten: str | None, pairs: tuple[str, ...], course: Course, watch: Watch,
    as_json: bool, **given: Any,
) -> None:  # fmt: skip
    """Train a model with the published recipe of a method. The result is OUT/last.pt.

    Example: sharpness train --method ldam-drw --data digits-lt --epochs 40 --out runs/ldam
    """
    from sharpness.studies.cells import NONE
    from sharpness.training import run_name

    require_folder("--out", out)
    data = load_described(given)
    names = tuple(name.strip() for name in (flatten or "").split(",") if name.strip() not in ("", NONE))
    options = _of_method(pairs)
    pretrained = course.pretrained is not None
    name = run_name(method, names, options, seed, data.other_augmentation, course.shards, pretrained)
    folder = Path(out) if out else Path("runs") / f"{given['data']}-{name}"
    require_folder("--out", folder)
    watched = watch.of(folder)
    settings = {**asdict(course), **training_settings(given), **options}
    history = sharpness.train(method, data, folder, flatten=names, seed=seed, monitor=watched, **settings)
    columns = ["stage", "epoch", "lr", "loss", "test_loss", *[str(c) for c in history if str(c).startswith("accuracy")]]
    ends = history[columns[:9]].groupby("stage", sort=False).tail(1)
    say(as_records(ends) if as_json else as_text(ends))
    say(f"written {folder / 'last.pt'}, {folder / 'history.csv'}", err=as_json)
    if watched is not None:
        watched.tell()


def _of_method(pairs: Sequence[str]) -> dict[str, Any]:
    """Return the options of a method by name.

    Raises:
        UserError: an argument of :func:`sharpness.train` itself, which would replace that of the command.
    """
    found = dict(pair(p) for p in pairs)
    taken = [p.name for p in signature(sharpness.train).parameters.values() if p.kind is not p.VAR_KEYWORD]
    own = {p.name: max(p.opts, key=len) for p in click.get_current_context().command.params}
    for name in found:
        if name in taken and name in own:
            raise UserError(f"-O {name}: it is an option of its own, {own[name]}")
        if name in taken:
            raise UserError(f"-O {name}: it is no option of the method, leave it out")
    return found
