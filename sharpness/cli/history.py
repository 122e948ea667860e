"""``sharpness history``."""

from __future__ import annotations

from pathlib import Path

import click

import sharpness
from sharpness.cli.options import AS_JSON, TOL, OneExample
from sharpness.cli.output import TABLES, as_records, as_text, require_file, require_picture, save_drawn, say, write


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
def history(
    run: str, measures: str, samples: int, tol: float, max_iterations: int, seed: int, as_json: bool,
    output: str | None, plot: str | None,
) -> None:  # fmt: skip
    """Print the sharpness of all, many, medium and few over the snapshots of a run.

    RUN is the folder of sharpness train --snapshots N. Eigenvalues begin with the vectors of the snapshot before.

    Example: sharpness history runs/ldam --plot history
    """
    require_file("-o", output, TABLES)
    require_picture("--plot", plot)
    names = [name.strip() for name in measures.split(",")]
    found = sharpness.history(run, names, samples, tol=tol, max_iterations=max_iterations, seed=seed)
    frame = found.to_frame()
    # On the disk before anything is printed to a pipe that may be closed.
    if output is not None:
        write(frame, Path(output))
    if plot is not None:
        shown = {"Shows": f"{names[-1]} over the snapshots of {run}, {samples} images of every class"}
        save_drawn(found.plot(names[-1]), Path(plot), shown, err=True)
    say(as_records(frame) if as_json else as_text(frame))
