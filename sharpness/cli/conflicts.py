"""``sharpness conflicts``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import sharpness
from sharpness.cli.options import OneExample, picture_look, probing_options, split_of
from sharpness.cli.output import (
    RESULTS,
    alone,
    as_noted,
    as_records,
    require_file,
    require_picture,
    save_drawn,
    say,
    write_results,
)


@click.command(cls=OneExample)
@click.argument("checkpoints", nargs=-1)
@probing_options
@click.option("--per-group", is_flag=True, help="Optima of many, medium and few instead of classes.")
@click.option("--damping", default=0.01, show_default=True, help="Cost of a move by the norm of all weights, doubled.")
@click.option("--steps", default=8, show_default=True, help="Largest number of Gauss-Newton steps.")
@click.option("--cg-steps", default=30, show_default=True, help="Largest number of products in each step.")
@click.option(
    "--parameters",
    default="all",
    show_default=True,
    help="Parameters in scope: all, backbone, classifier or a pattern of names.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    help="File for the results: .csv, .json, .nc, or .tex for a LaTeX table.",
)
@click.option("--plot", type=click.Path(), help="Draw the conflict matrix as well, as PDF and PNG.")
def conflicts(
    checkpoints: tuple[str, ...], per_group: bool, damping: float, steps: int, cg_steps: int, parameters: str,
    as_json: bool, output: str | None, plot: str | None, **probed: Any,
) -> None:  # fmt: skip
    """Print where each class wants to go: the displacement to its own optimum, the loss there, and its worst conflict.

    Optima are damped: see sharpness.class_optima. The picture has the cosines between all displacements.

    Example: sharpness conflicts runs/ldam/last.pt --plot conflicts
    """
    from sharpness.cli.subjects import subjects
    from sharpness.engine import distributed

    require_file("-o", output, RESULTS)
    require_picture("--plot", plot)
    read, options = subjects(checkpoints, probed)
    look = picture_look(probed, read, plot is not None)
    results = sharpness.class_optima(
        read, damping, steps, cg_steps, per_group=per_group, keep_vectors=False, data=options.pop("data", None),
        options={"parameters": parameters, **options},
    )  # fmt: skip
    # Written before anything is printed to a pipe that may be closed.
    if output is not None and distributed.rank() == 0:
        write_results(results, Path(output))
    if plot is not None and distributed.rank() == 0:
        what = "Cosines between displacements to the classes' own optima"
        save_drawn(alone(results).plot(**look), Path(plot), what, results, split_of(probed), err=True)
    say(as_records(alone(results).to_frame()) if as_json else as_noted(results))
