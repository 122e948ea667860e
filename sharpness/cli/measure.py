"""``sharpness measure``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import sharpness
from sharpness.cli.names import UNUSUAL_MEASURES
from sharpness.cli.options import Offered, OneExample, coordinates_option, picture_look, probing_options, split_of
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
from sharpness.cli.work import finish, work_beside
from sharpness.registries import MEASURES


@click.command(cls=OneExample)
@click.argument("checkpoints", nargs=-1)
@probing_options
@coordinates_option
@click.option(
    "--measures",
    default="",
    cls=Offered,
    registry="measures",
    help=f"Comma-separated names of measures, or package.module:name of one: {', '.join(MEASURES)}. "
    f"[all but {', '.join(UNUSUAL_MEASURES)}]",
)
@click.option("--radius", default=0.1, show_default=True, help="Radius of random perturbations, in filter norms.")
@click.option("--draws", default=5, show_default=True, help="Number of random perturbations.")
@click.option("--rho", default=0.05, show_default=True, help="Radius of the worst-case perturbation.")
@click.option("--trace-draws", default=30, show_default=True, help="Number of random vectors for the trace.")
@click.option(
    "--tol",
    default=1e-3,
    show_default=True,
    help="Tolerated residual of an eigenvalue, relative to the largest one; 5 times as much relative to itself.",
)
@click.option(
    "--max-iterations", default=100, show_default=True, help="Largest number of products for each end of a spectrum."
)
@click.option(
    "--parameters",
    default="all",
    show_default=True,
    help="Parameters in scope: all, backbone, classifier or a pattern of names.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of random perturbations and start vectors.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    help="File for the results: .csv, .json, .nc, or .tex for a LaTeX table.",
)
@click.option("--plot", "figure", type=click.Path(), help="Draw every measure as well, as PDF and PNG.")
def measure(
    checkpoints: tuple[str, ...], measures: str, radius: float, draws: int, rho: float, trace_draws: int,
    tol: float, max_iterations: int, parameters: str, seed: int, as_json: bool, output: str | None, figure: str | None,
    coordinates: str, **probed: Any,
) -> None:  # fmt: skip
    """Print the per-class table of checkpoints: accuracy, loss, eigenvalues, rises of the loss, standard errors.

    CHECKPOINTS are files, or folders of them; anybody's, see sharpness inspect. Runs that differ only in their seed
    are one model: mean ± standard deviation over them, in brackets the standard error of one; files and JSON have a row
    for each. With -o or --plot unfinished work is kept beside the output, and the same command continues it.

    Example: sharpness measure runs/ldam/last.pt -o ldam.csv
    """
    from sharpness.cli.subjects import single, subjects
    from sharpness.engine import distributed
    from sharpness.probes.shared.unseen_images import unseen
    from sharpness.results import Comparison

    require_file("-o", output, RESULTS)
    require_picture("--plot", figure)
    read, options = subjects(checkpoints, probed)
    look = picture_look(probed, read, figure is not None)
    for checkpoint in single(read):
        if remark := unseen(checkpoint, **options):
            say(f"sharpness: {checkpoint.path}: suspicious: {remark}", err=True)
    written = output or figure
    work, partial = work_beside(written) if written is not None else (None, None)
    chosen: dict[str, Any] = {"measures": measures} if measures else {}
    results = sharpness.measure(
        read, radius=radius, draws=draws, rho=rho, trace_draws=trace_draws, tol=tol, max_iterations=max_iterations,
        coordinates=coordinates, seed=seed, resume=partial, parameters=parameters, **chosen, **options,
    )  # fmt: skip
    assert isinstance(results, Comparison)
    # What took hours is on the disk before anything is printed to a pipe that may be closed.
    if output is not None and distributed.rank() == 0:
        write_results(results, Path(output))
    if figure is not None and distributed.rank() == 0:
        what = f"Measures of every class: {', '.join(results.each()[next(iter(results.each()))].names)}"
        save_drawn(results.plot(measure="all", **look), Path(figure), what, results, split_of(probed), err=True)
    finish(work)
    say(as_records(alone(results).to_frame()) if as_json else as_noted(results))
