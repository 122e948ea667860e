"""``sharpness measure``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import sharpness
from sharpness.cli.names import MEASURES, UNUSUAL_MEASURES
from sharpness.cli.options import Offered, OneExample, picture_look, probing_options, split_of
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


@click.command(cls=OneExample)
@click.argument("checkpoints", nargs=-1)
@probing_options
@click.option(
    "--measures",
    default="",
    cls=Offered,
    registry="measures",
    help=f"Comma-separated names of measures, or package.module:name of one: {', '.join(MEASURES)}. "
    f"[all but {', '.join(UNUSUAL_MEASURES)}]",
)
@click.option("--radius", default=0.1, show_default=True, help="Relative size of random perturbations.")
@click.option("--draws", default=5, show_default=True, help="Of them.")
@click.option("--rho", default=0.05, show_default=True, help="Radius of the worst case.")
@click.option("--trace-draws", default=30, show_default=True, help="Random vectors of the trace.")
@click.option(
    "--tol",
    default=1e-3,
    show_default=True,
    help="Residual of an eigenvalue, relative to the largest; 5 times that to itself.",
)
@click.option("--max-iterations", default=100, show_default=True, help="Products for each end of a spectrum at most.")
@click.option("--parameters", default="all", show_default=True, help="all, backbone, classifier or a pattern of names.")
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    help="Also write the results, as .csv, .json, .nc or .tex, a table for LaTeX.",
)
@click.option("--plot", "figure", type=click.Path(), help="Also draw every measure, as PDF and PNG.")
def measure(
    checkpoints: tuple[str, ...], measures: str, radius: float, draws: int, rho: float, trace_draws: int,
    tol: float, max_iterations: int, parameters: str, seed: int, as_json: bool, output: str | None, figure: str | None,
    **probed: Any,
) -> None:  # fmt: skip
    """Print the per-class table of checkpoints: accuracy, loss, eigenvalues, rises of the loss, standard errors.

    CHECKPOINTS are files, or folders of them; anybody's, see sharpness inspect. Runs that differ in their seed alone
    are one model: mean ± standard deviation over them, in brackets the standard error of one; files and JSON have a row
    for each. With -o or --plot unfinished work is
    kept beside what will be written, and the same command goes on with it.

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
        if told := unseen(checkpoint, **options):
            say(f"sharpness: {checkpoint.path}: suspicious: {told}", err=True)
    written = output or figure
    work, partial = work_beside(written) if written is not None else (None, None)
    chosen: dict[str, Any] = {"measures": measures} if measures else {}
    results = sharpness.measure(
        read, radius=radius, draws=draws, rho=rho, trace_draws=trace_draws, tol=tol, max_iterations=max_iterations,
        seed=seed, resume=partial, parameters=parameters, **chosen, **options,
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
