"""``sharpness figures`` and ``sharpness demo``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

import sharpness
from sharpness.cli.completion import CHECKPOINTS
from sharpness.cli.grouped import grouped
from sharpness.cli.names import FIGURE_METHODS, STUDY_METHODS, STUDY_OPERATIONS
from sharpness.cli.options import (
    AS_JSON,
    CLUSTER,
    JOBS,
    LOSS,
    SEEDS,
    Offered,
    OneExample,
    coordinates_option,
    data_options,
    executor_of,
    load_described,
    training_options,
    training_settings,
    was_given,
)
from sharpness.cli.output import as_records, require_folder, say
from sharpness.errors import UserError, choose

STUDIES = ("motivation", "flattening", "microbenchmark")
#: Options of ``figures`` that only apply to some studies.
STUDY_OPTIONS = {
    "methods": ("motivation", "flattening"),
    "operations": ("flattening",),
    "rho_scale": ("microbenchmark",),
    "grid": ("motivation",),
    "adaptive": ("motivation",),
    "extent": ("motivation",),
    "direction_seeds": ("motivation",),
    "logits": ("motivation",),
    "tol": ("motivation",),
}
#: Options of trainings, which do not apply to given models.
TRAINED = (
    "study", "methods", "seeds", "data", "lists", "profile", "imbalance", "subset", "groups", "epochs", "model",
    "batch_size", "precision", "augmentation",
)  # fmt: skip


@dataclass(frozen=True)
class Study:
    """A study and the methods, operations and seeds that it compares."""

    study: str
    methods: str | None
    operations: str
    seeds: str
    rho_scale: float | None

    def chosen(self) -> list[str]:
        """Return the given methods, or the default ones of the study."""
        usual = STUDY_METHODS if self.study == "flattening" else FIGURE_METHODS
        return self.methods.split(",") if self.methods else list(usual)


@dataclass(frozen=True)
class Making:
    """The processes that run the trainings, and the part of the trainings to run."""

    jobs: int | None
    cluster: str | None
    cells: str | None

    def options(self) -> dict[str, Any]:
        """Return the corresponding arguments of a study.

        Raises:
            UserError: an invalid part, or both ``--jobs`` and ``--cluster``.
        """
        making: dict[str, Any] = {"jobs": self.jobs}
        if self.cluster is not None:
            if self.jobs is not None:
                raise UserError(f"--jobs {self.jobs} and --cluster {self.cluster}: give one of them")
            making = {"executor": executor_of(self.cluster)}
        if self.cells is not None:
            part, _, number = self.cells.partition("/")
            if not (part.isdecimal() and number.isdecimal()):
                raise UserError(f"--cells {self.cells}: give part i of n, such as 3/60")
            making["part"] = int(part), int(number)
        return making


@click.command(cls=OneExample)
@CHECKPOINTS
@click.option(
    "--study",
    default="motivation",
    help="Study to run: motivation (with curvature and visualization), flattening (do operations help?) or "
    "microbenchmark (direction or magnitude?).",
)
@click.option(
    "--methods",
    help=f"Methods to compare. [default: {','.join(FIGURE_METHODS)}; --study flattening: {','.join(STUDY_METHODS)}]",
)
@click.option(
    "--operations", default=",".join(STUDY_OPERATIONS), help="Flattening operations to compare (--study flattening)."
)
@SEEDS
@JOBS
@CLUSTER
@click.option(
    "--cells", help="Part of the trainings to run, such as 3/60, for job arrays. [default: all, then the figures]"
)
@click.option("--rho-scale", type=float, help="Factor on CC-SAM's radius (--study microbenchmark). [default: 0.01]")
@data_options
@training_options
@click.option("-o", "--out", type=click.Path(), help="Folder for the figures. [default: out/DATA]")
@click.option(
    "--runs",
    type=click.Path(),
    help="Folder for trained models and probe results. [default: runs/DATA, runs/STUDY or runs/checkpoints]",
)
@click.option("--plane", "grid", default=51, help="Number of points along each side of a plane (--study motivation).")
@click.option(
    "--adaptive", default=0.01, help="Tolerated relative error of interpolated points; 0: evaluate every point."
)
@click.option("--range", "extent", default=0.5, help="Half the side of a plane, in filter norms.")
@click.option(
    "--direction-seeds",
    default="0",
    help="Seeds of the random directions of lines and planes; each seed gives a row of panels.",
)
@click.option(
    "--logits",
    type=click.Choice(["calibrated", "temperature"]),
    default="calibrated",
    help="Use calibrated logits as they are, or divide them by each model's own temperature (equal confidence).",
)
@click.option("--tol", default=1e-3, help="Tolerance on eigenvalue residuals, relative to the largest eigenvalue.")
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="train", help="Split of the data.")
@coordinates_option("filter")
@LOSS
@click.option(
    "--limit-per-class",
    type=int,
    help="Maximum number of images per class. [default: all, if at most 400; else 200 in total, at least 5 per class]",
)
@click.option(
    "--measures",
    cls=Offered,
    registry="measures",
    help="Comma-separated measures, see sharpness measure --help. [default: as there, without accuracy and loss]",
)
@AS_JSON
@grouped(asked=Study, making=Making)
def figures(
    checkpoints: tuple[str, ...], asked: Study, making: Making, direction_seeds: str, out: str | None, runs: str | None,
    as_json: bool, **given: Any,
) -> None:  # fmt: skip
    """Recreate the talk's figures: train missing models, probe them, plot, and print a summary.

    If you give CHECKPOINTS (files or folders of models that record their data), nothing is trained. Run the same
    command again to resume an interrupted one. With --cells i/n, only part i of n of the trainings is run; the same
    command without it collects all results.

    Example: sharpness figures zoo: --plane 21 --adaptive 0.05 --tol 0.01
    """
    from sharpness.studies import figures_of, make_figures, make_flattening_study, make_microbenchmark

    study = asked.study
    choose("study", study, STUDIES)
    # Check whether an option was given, not its value: an option that the study ignores must be refused.
    for name, studies in STUDY_OPTIONS.items():
        if study not in studies and was_given(name):
            raise UserError(f"{_option(name)} is no option of --study {study}, only of {' and '.join(studies)}")
    if idle := [_option(name) for name in TRAINED if checkpoints and was_given(name)]:
        raise UserError(f"{', '.join(idle)}: models that are trained already have their own, leave it out")
    require_folder("--out", out)
    require_folder("--runs", runs)
    made = making.options()
    landscapes = {name: given.pop(name) for name in ("grid", "adaptive", "extent", "logits", "tol")}
    landscapes |= {
        "adaptive": landscapes["adaptive"] or None,
        "directions": integers("direction-seeds", direction_seeds),
    }
    probed = {name: given[name] for name in ("split", "loss", "limit_per_class", "measures", "coordinates")}
    if checkpoints:
        recorded = {name: given[name] for name in ("data_root", "download", "device")}
        out, runs = out or "out/checkpoints", runs or "runs/checkpoints"
        _print(figures_of(checkpoints, out, runs, **made, **recorded, **landscapes, **probed), as_json)
        return
    data = load_described(given)
    out = out or "/".join(["out", given["data"], *([data.other_augmentation] if data.other_augmentation else [])])
    chosen, seeds = asked.chosen(), integers("seeds", asked.seeds)
    require_folder("--out", out)
    usual = f"runs/{given['data'] if study == 'motivation' else study}"
    shared: dict[str, Any] = {"out": out, "runs": runs or usual, **made, **probed, **training_settings(given)}
    if study == "motivation":
        drawn: Any = make_figures(data, chosen, seeds, **landscapes, **shared)
    elif study == "flattening":
        drawn = make_flattening_study(data, chosen, asked.operations.split(","), seeds, **shared)
    else:
        drawn = make_microbenchmark(data, seeds, rho_scale=asked.rho_scale, **shared)
    _print(drawn, as_json)


def _option(name: str) -> str:
    """Return the command-line name of a parameter."""
    return next(one.opts[0] for one in click.get_current_context().command.params if one.name == name)


def _print(drawn: Any, as_json: bool) -> None:
    """Print the text of a study, or the rows of its tables as JSON, and the names of its files."""
    if as_json:
        from sharpness.results.record import read_table

        tables = [Path(path) for path in drawn.files if Path(path).suffix == ".csv"]
        rows = [{"table": path.stem, **row} for path in tables for row in json.loads(as_records(read_table(path)))]
        say(json.dumps(rows, indent=1))
    else:
        say(drawn.text)
    for path in drawn.files:
        say(path, err=as_json)


def integers(option: str, text: str) -> list[int]:
    """Parse comma-separated seeds."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--{option} {text}: give integers, such as 0,1,2") from None


@click.command(cls=OneExample)
@click.option("--epochs", default=40, help="Epochs of the first stage of every method.")
@SEEDS
@JOBS
@click.option("-o", "--out", type=click.Path(), default="out/demo", help="Folder for the figures.")
@click.option("--runs", type=click.Path(), default="runs/demo", help="Folder for the trained models.")
@AS_JSON
def demo(epochs: int, seeds: str, jobs: int | None, out: str, runs: str, as_json: bool) -> None:
    """Train five methods on the embedded digits (three seeds each), probe them per class and plot, in three minutes.

    Example: sharpness demo
    """
    require_folder("--out", out)
    require_folder("--runs", runs)

    from sharpness.studies import make_figures

    data = sharpness.load_data("digits-lt")
    _print(make_figures(data, FIGURE_METHODS, integers("seeds", seeds), out, runs, epochs=epochs, jobs=jobs), as_json)
