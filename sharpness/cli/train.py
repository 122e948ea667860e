"""``sharpness train``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import sharpness
from sharpness.cli.options import (
    Offered,
    OneExample,
    data_options,
    load_described,
    pair,
    training_options,
    training_settings,
)
from sharpness.cli.output import as_text, require_folder, say
from sharpness.registries import METHODS, OPERATIONS


@click.command(cls=OneExample)
@click.option(
    "--method",
    required=True,
    cls=Offered,
    registry="methods",
    help=f"Method to train with: {', '.join(METHODS.built_in())}, or package.module:recipe of your own.",
)
@data_options
@training_options
@click.option(
    "--shards",
    default=1,
    show_default=True,
    help="Shards of every batch, which processes under torchrun share; BatchNorm sees one of them.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of weights, batches and noise.")
@click.option("--out", type=click.Path(), help="Folder for the run. [runs/DATA-METHOD+OPERATIONS-seedS]")
@click.option(
    "--flatten",
    default="",
    cls=Offered,
    registry="operations",
    help=f"Flattening operations such as sam:0.1,swa, from {', '.join(OPERATIONS.built_in())}.",
)
@click.option("--option", "-O", "pairs", multiple=True, help="Option of the method, such as -O scope=all. Repeatable.")
@click.option("--resume", is_flag=True, help="Continue an unfinished run.")
@click.option("--test-every", default=1, show_default=True, help="Number of epochs between tests; the last is tested.")
@click.option("--snapshots", type=int, help="Number of epochs between checkpoints to keep, for trajectories.")
def train(
    method: str, seed: int, out: str | None, flatten: str, pairs: tuple[str, ...], resume: bool, snapshots: int | None,
    test_every: int, shards: int, **given: Any,
) -> None:  # fmt: skip
    """Train a model with a method's published recipe; the result is OUT/last.pt.

    Example: sharpness train --method ldam-drw --data digits-lt --epochs 40 --out runs/ldam
    """
    from sharpness.studies.cells import NONE
    from sharpness.training import run_name

    require_folder("--out", out)
    data = load_described(given)
    names = tuple(name.strip() for name in flatten.split(",") if name.strip() not in ("", NONE))
    options = dict(pair(p) for p in pairs)
    name = f"{given['data']}-{run_name(method, names, options, seed, data.other_augmentation, shards)}"
    folder = Path(out) if out else Path("runs") / name
    require_folder("--out", folder)
    kept: dict[str, Any] = {"resume": resume, "snapshots": snapshots, "test_every": test_every, "shards": shards}
    history = sharpness.train(
        method, data, folder, flatten=names, seed=seed, **kept, **training_settings(given), **options
    )
    columns = ["stage", "epoch", "lr", "loss", "test_loss", *[str(c) for c in history if str(c).startswith("accuracy")]]
    say(as_text(history[columns[:9]].groupby("stage", sort=False).tail(1)))
    say(f"written {folder / 'last.pt'}, {folder / 'history.csv'}")
