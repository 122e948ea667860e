"""``sharpness history``."""

from __future__ import annotations

import click

import sharpness
from sharpness.cli.grouped import grouped
from sharpness.cli.options import AS_JSON, OneExample, output_option, plot_option, tol_option
from sharpness.cli.output import TABLES, Delivery, as_text


@click.command(cls=OneExample)
@click.argument("run", type=click.Path())
@click.option("--measures", default="accuracy,loss,lambda_max", help="Comma-separated measures to compute.")
@click.option("--limit-per-class", default=8, help="Maximum number of images per class, drawn at random with the seed.")
@tol_option(1e-2)
@click.option("--max-iterations", default=40, help="Maximum number of Hessian-vector products per eigenvalue.")
@click.option("--seed", default=0, help="Seed of the drawn images and of the starting vectors.")
@AS_JSON
@output_option("the rows")
@plot_option("the last measure over epochs")
@grouped(shown=Delivery)
def history(
    run: str, measures: str, limit_per_class: int, tol: float, max_iterations: int, seed: int, shown: Delivery
) -> None:
    """Print the sharpness of all, many, medium and few over the snapshots of a run.

    RUN is a folder written by sharpness train --snapshots N. Eigenvalues start from the previous snapshot's vectors.

    Example: sharpness history runs/ldam --plot history
    """
    shown.require(TABLES)
    names = [name.strip() for name in measures.split(",")]
    found = sharpness.history(run, names, limit_per_class, tol=tol, max_iterations=max_iterations, seed=seed)
    frame = found.to_frame()
    caption = {"Shows": f"{names[-1]} over the snapshots of {run}, at most {limit_per_class} images of every class"}
    shown.table(frame, lambda: as_text(frame), lambda: (found.plot(names[-1]), caption))
