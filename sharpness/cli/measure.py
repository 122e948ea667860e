"""``sharpness measure``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import click

import sharpness
from sharpness.cli.completion import CHECKPOINTS
from sharpness.cli.file_options import probing_options
from sharpness.cli.grouped import grouped
from sharpness.cli.names import UNUSUAL_MEASURES
from sharpness.cli.options import (
    CLUSTER,
    PARAMETERS,
    TOL,
    Offered,
    OneExample,
    coordinates_option,
    executor_of,
    picture_look,
    result_options,
)
from sharpness.cli.output import Delivery, say
from sharpness.registries import MEASURES


@dataclass(frozen=True)
class TableSettings:
    """Settings of measures, named as in :func:`sharpness.measure`, and the parameters to probe."""

    radius: float
    draws: int
    rho: float
    trace_draws: int
    tol: float
    max_iterations: int
    coordinates: str
    parameters: str
    seed: int


@click.command(cls=OneExample)
@CHECKPOINTS
@probing_options
@coordinates_option()
@click.option(
    "--measures",
    cls=Offered,
    registry="measures",
    help=f"Comma-separated measures: {', '.join(MEASURES)}, or your own package.module:name. "
    f"[default: all but {', '.join(UNUSUAL_MEASURES)}]",
)
@click.option("--radius", default=0.1, help="Radius of random perturbations, relative to the filter norms.")
@click.option("--draws", default=5, help="Number of random perturbations.")
@click.option("--rho", default=0.05, help="Radius (l2 norm) of the worst-case perturbation.")
@click.option("--trace-draws", default=30, help="Number of random vectors for the trace, where it is not exact.")
@TOL
@click.option("--max-iterations", default=100, help="Maximum number of Hessian-vector products per end of a spectrum.")
@PARAMETERS
@click.option("--seed", default=0, help="Seed of random perturbations and starting vectors.")
@CLUSTER
@result_options
@grouped(settings=TableSettings, shown=Delivery)
def measure(
    checkpoints: tuple[str, ...], measures: str | None, settings: TableSettings, cluster: str | None, shown: Delivery,
    **probed: Any,
) -> None:  # fmt: skip
    """Print a per-class table of checkpoints: accuracy, loss, eigenvalues and rises of the loss, with their errors.

    CHECKPOINTS are files or folders, also from other code bases (see sharpness inspect). Runs that differ only in their
    seed are reported as one model: mean ± standard deviation over runs, and in brackets the standard error of one run;
    output files and JSON have one row per run. With -o or --plot, run the same command again to resume an interrupted
    one. With --cluster, models are distributed over the workers; if there are fewer models than workers, the classes of
    each model are.

    Example: sharpness measure runs/ldam/last.pt -o ldam.csv
    """
    from sharpness.cli.subjects import single, subjects
    from sharpness.probes.shared.sanity_check import unseen
    from sharpness.results import Comparison
    from sharpness.results.comparison import first_of
    from sharpness.results.enough import enough

    # First, because an invalid file name must be reported before hours of work.
    shown.require()
    read, options = subjects(checkpoints, probed)
    look = picture_look(probed, read, shown.plot is not None)
    executor = executor_of(cluster)
    for checkpoint in single(read):
        if remark := unseen(checkpoint, **options):
            say(f"sharpness: {checkpoint.path}: suspicious: {remark}", err=True)
    work, partial = shown.work(beside_picture=True)
    results = sharpness.measure(
        read, measures=measures, resume=partial, executor=executor, **asdict(settings), **options
    )
    assert isinstance(results, Comparison)
    what = f"Measures of every class: {', '.join(first_of(results).names)}"
    shown.results(results, what, probed, {"measure": "all", **look}, work, lambda: enough(results))
