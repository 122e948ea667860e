"""``sharpness history``."""

from __future__ import annotations

import click

import sharpness
from sharpness.cli.grouped import grouped
from sharpness.cli.options import AS_JSON, TOL, OneExample
from sharpness.cli.output import TABLES, Delivery, as_text


@click.command(cls=OneExample)
@click.argument("run", type=click.Path())
@click.option(
    "--measures", default="accuracy,loss,lambda_max", show_default=True, help="Comma-separated names of measures."
)
@click.option("--samples", default=8, show_default=True, help="Number of images of every class.")
@TOL
@click.option("--max-iterations", default=40, show_default=True, help="Largest number of products for an eigenvalue.")
@click.option("--seed", default=0, show_default=True, help="Seed of the images and of first vectors.")
@AS_JSON
@click.option("-o", "--output", type=click.Path(), help="File for the rows, .csv, .json or .parquet.")
@click.option("--plot", type=click.Path(), help="Draw the last measure over epochs as well, as PDF and PNG.")
@grouped(shown=Delivery)
def history(run: str, measures: str, samples: int, tol: float, max_iterations: int, seed: int, shown: Delivery) -> None:
    """Print the sharpness of all, many, medium and few over the snapshots of a run.

    RUN is the folder of sharpness train --snapshots N. Eigenvalues begin with the vectors of the snapshot before.

    Example: sharpness history runs/ldam --plot history
    """
    shown.require(TABLES)
    names = [name.strip() for name in measures.split(",")]
    found = sharpness.history(run, names, samples, tol=tol, max_iterations=max_iterations, seed=seed)
    frame = found.to_frame()
    caption = {"Shows": f"{names[-1]} over the snapshots of {run}, {samples} images of every class"}
    shown.table(frame, lambda: as_text(frame), lambda: (found.plot(names[-1]), caption))
