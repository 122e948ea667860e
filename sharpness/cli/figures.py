"""``sharpness figures`` and ``sharpness demo``."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

import sharpness
from sharpness.cli.names import FIGURE_METHODS, STUDY_METHODS, STUDY_OPERATIONS
from sharpness.cli.options import (
    JOBS,
    LIMIT,
    LOSS,
    SEEDS,
    Offered,
    OneExample,
    data_options,
    load_described,
    training_options,
    training_settings,
)
from sharpness.cli.output import require_folder, say
from sharpness.errors import UserError, choose

STUDIES = ("motivation", "flattening", "microbenchmark")
#: Options of ``figures`` that only some studies have.
STUDY_OPTIONS = {
    "methods": ("motivation", "flattening"),
    "operations": ("flattening",),
    "rho_scale": ("microbenchmark",),
    "grid": ("motivation",),
    "adaptive": ("motivation",),
    "extent": ("motivation",),
}


@click.command(cls=OneExample)
@click.option(
    "--study",
    default="motivation",
    show_default=True,
    help="Study to make: motivation (with curvature and visualization), flattening (do operations help?) or "
    "microbenchmark (direction or magnitude?).",
)
@click.option(
    "--methods", help=f"Methods to compare. [{','.join(FIGURE_METHODS)}; flattening: {','.join(STUDY_METHODS)}]"
)
@click.option(
    "--operations",
    default=",".join(STUDY_OPERATIONS),
    show_default=True,
    help="Flattening operations to compare, of --study flattening.",
)
@SEEDS
@JOBS
@click.option("--rho-scale", type=float, help="Factor of CC-SAM's radius, of --study microbenchmark. [0.01]")
@data_options
@training_options
@click.option("--out", type=click.Path(), help="Folder for the figures. [out/DATA]")
@click.option("--runs", type=click.Path(), help="Folder for the trained models. [runs/DATA, or runs/STUDY]")
@click.option(
    "--plane", "grid", default=51, show_default=True, help="Points along each side of a plane, of --study motivation."
)
@click.option(
    "--adaptive",
    default=0.01,
    show_default=True,
    help="Relative error to which its planes are interpolated; 0 to evaluate every point.",
)
@click.option("--range", "extent", default=0.5, show_default=True, help="Half the side of its planes, in filter norms.")
@click.option(
    "--split", type=click.Choice(["train", "val", "test"]), default="train", help="Split of the data. [train]"
)
@LOSS
@LIMIT
@click.option(
    "--measures",
    cls=Offered,
    registry="measures",
    help="Comma-separated names of measures, see sharpness measure --help. [its default without accuracy and loss]",
)
def figures(
    study: str, methods: str | None, operations: str, seeds: str, jobs: int | None, out: str | None, runs: str | None,
    rho_scale: float | None, grid: int, adaptive: float, extent: float, split: str, loss: str,
    limit_per_class: int | None, measures: str | None, **given: Any,
) -> None:  # fmt: skip
    """Recreate the talk's figures: train what is missing, probe, draw, and print the summary.

    The same command continues unfinished work.

    Example: sharpness figures --data cifar10-lt --epochs 10 --limit-per-class 20 --plane 15
    """
    from sharpness.studies import make_figures, make_flattening_study, make_microbenchmark

    choose("study", study, STUDIES)
    # By the source, not by the value: a default is no request, and an option that a study ignores must not pass.
    context = click.get_current_context()
    for name, studies in STUDY_OPTIONS.items():
        if study not in studies and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = next(parameter.opts[0] for parameter in context.command.params if parameter.name == name)
            raise UserError(f"{option} is no option of --study {study}, only of {' and '.join(studies)}")
    require_folder("--out", out)
    require_folder("--runs", runs)
    data = load_described(given)
    out = out or "/".join(["out", given["data"], *([data.other_augmentation] if data.other_augmentation else [])])
    chosen = methods.split(",") if methods else list(STUDY_METHODS if study == "flattening" else FIGURE_METHODS)
    require_folder("--out", out)
    usual = f"runs/{given['data'] if study == 'motivation' else study}"
    shared: dict[str, Any] = {"out": out, "runs": runs or usual, "jobs": jobs, "split": split, "loss": loss}
    shared |= {"limit_per_class": limit_per_class, "measures": measures, **training_settings(given)}
    if study == "motivation":
        drawn: Any = make_figures(
            data, chosen, integers(seeds), grid=grid, extent=extent, adaptive=adaptive or None, **shared
        )
    elif study == "flattening":
        drawn = make_flattening_study(data, chosen, operations.split(","), integers(seeds), **shared)
    else:
        drawn = make_microbenchmark(data, integers(seeds), rho_scale=rho_scale, **shared)
    _print(drawn)


def _print(drawn: Any) -> None:
    """Print the text of a study, and the names of its files."""
    say(drawn.text)
    for path in drawn.files:
        say(path)


def integers(text: str) -> list[int]:
    """Parse comma-separated seeds."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds {text}: give integers, such as 0,1,2") from None


@click.command(cls=OneExample)
@click.option("--epochs", default=40, show_default=True, help="Epochs of the first stage of every method.")
@SEEDS
@JOBS
@click.option("--out", type=click.Path(), default="out/demo", show_default=True, help="Folder for the figures.")
@click.option(
    "--runs", type=click.Path(), default="runs/demo", show_default=True, help="Folder for the trained models."
)
def demo(epochs: int, seeds: str, jobs: int | None, out: str, runs: str) -> None:
    """Five methods on the embedded digits, three seeds each: trained, probed per class and drawn, in three minutes.

    Example: sharpness demo
    """
    require_folder("--out", out)
    require_folder("--runs", runs)

    from sharpness.studies import make_figures

    data = sharpness.load_data("digits-lt")
    _print(make_figures(data, FIGURE_METHODS, integers(seeds), out, runs, epochs=epochs, jobs=jobs))
