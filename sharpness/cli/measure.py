"""``sharpness measure``."""

from __future__ import annotations

from typing import Any

import click

import sharpness
from sharpness.cli.completion import CHECKPOINTS
from sharpness.cli.names import UNUSUAL_MEASURES
from sharpness.cli.options import (
    CLUSTER,
    PARAMETERS,
    TOL,
    Offered,
    OneExample,
    coordinates_option,
    executor_of,
    measured_on,
    picture_look,
    probing_options,
    result_options,
    split_of,
)
from sharpness.cli.output import RESULTS, deliver, require_file, require_picture, say
from sharpness.cli.work import work_beside
from sharpness.registries import MEASURES


@click.command(cls=OneExample)
@CHECKPOINTS
@probing_options
@coordinates_option()
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
@TOL
@click.option(
    "--max-iterations", default=100, show_default=True, help="Largest number of products for each end of a spectrum."
)
@PARAMETERS
@click.option("--seed", default=0, show_default=True, help="Seed of random perturbations and start vectors.")
@CLUSTER
@result_options
def measure(
    checkpoints: tuple[str, ...], measures: str, radius: float, draws: int, rho: float, trace_draws: int,
    tol: float, max_iterations: int, parameters: str, seed: int, as_json: bool, output: str | None, plot: str | None,
    coordinates: str, cluster: str | None, **probed: Any,
) -> None:  # fmt: skip
    """Print the per-class table of checkpoints: accuracy, loss, eigenvalues, rises of the loss, standard errors.

    CHECKPOINTS are files, or folders of them; anybody's, see sharpness inspect. Runs that differ only in their seed
    are one model: mean ± standard deviation over them, in brackets the standard error of one; files and JSON have a row
    for each. With -o or --plot unfinished work is kept beside the output, and the same command continues it. With
    --cluster models are measured by its workers, or, of fewer models than workers, the curvature of their classes is.

    Example: sharpness measure runs/ldam/last.pt -o ldam.csv
    """
    from sharpness.cli.subjects import single, subjects
    from sharpness.probes.shared.unseen_images import unseen
    from sharpness.results import Comparison
    from sharpness.results.caption import caption
    from sharpness.results.comparison import first_of
    from sharpness.results.enough import enough

    # First of all, because a wrong name of a file must be told before hours of work.
    require_file("-o", output, RESULTS)
    require_picture("--plot", plot)
    read, options = subjects(checkpoints, probed)
    look = picture_look(probed, read, plot is not None)
    executor = executor_of(cluster)
    for checkpoint in single(read):
        if remark := unseen(checkpoint, **options):
            say(f"sharpness: {checkpoint.path}: suspicious: {remark}", err=True)
    written = output or plot
    work, partial = work_beside(written) if written is not None else (None, None)
    chosen: dict[str, Any] = {"measures": measures} if measures else {}
    results = sharpness.measure(
        read, radius=radius, draws=draws, rho=rho, trace_draws=trace_draws, tol=tol, max_iterations=max_iterations,
        coordinates=coordinates, seed=seed, resume=partial, parameters=parameters,
        executor=executor, **chosen, **options,
    )  # fmt: skip
    assert isinstance(results, Comparison)
    what = f"Measures of every class: {', '.join(first_of(results).names)}"
    deliver(
        results, lambda: results.plot(measure="all", **look), lambda: caption(what, results, split_of(probed)), work,
        as_json=as_json, output=output, plot=plot, remarks=lambda: [measured_on(probed), *enough(results)],
    )  # fmt: skip
