"""``sharpness correlate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import sharpness
from sharpness.cli.options import AS_JSON, OneExample, look_options, picture_look
from sharpness.cli.output import TABLES, as_records, require_file, require_picture, save_drawn, say, write


@click.command(cls=OneExample)
@click.argument("table", type=click.Path())
@click.option("--test", type=click.Path(), help="Table of the same checkpoints on test images, for accuracy and gap.")
@click.option("--measures", default="", help="Comma-separated columns of the table. [all but accuracy]")
@click.option("--given", help="Column that partial coefficients are given. [train, over classes]")
@click.option(
    "--resamples", default=2000, show_default=True, help="Number of resamples of the bootstrap over checkpoints."
)
@click.option("--seed", default=0, show_default=True, help="Seed of the bootstrap.")
@click.option("-o", "--output", type=click.Path(), help="File for the coefficients, .csv, .json or .parquet.")
@click.option("--plot", "figure", type=click.Path(), help="Draw the scatter over checkpoints as well, as PDF and PNG.")
@click.option(
    "--over",
    type=click.Choice(["checkpoints", "classes"]),
    default="checkpoints",
    show_default=True,
    help="Dots of the picture: checkpoints, or classes of checkpoints.",
)
@look_options
@AS_JSON
def correlate(
    table: str, test: str | None, measures: str, given: str | None, resamples: int, seed: int, output: str | None,
    figure: str | None, over: str, as_json: bool, **look: Any,
) -> None:  # fmt: skip
    """Print the rank correlation of measures with accuracy, and with the gap between training and test.

    TABLE is an output of sharpness measure -o for several checkpoints, on training images, or the table of a study's
    trainings. Kendall's tau over checkpoints, over checkpoints of the same model (given the method), and over classes,
    also given their training images, with 95 % intervals.

    Example: sharpness correlate out/train.csv --test out/test.csv --plot out/correlation
    """
    require_file("-o", output, TABLES)
    require_picture("--plot", figure)
    names = [name.strip() for name in measures.split(",") if name.strip()] or None
    found = sharpness.correlate(table, test, measures=names, given=given, resamples=resamples, seed=seed)
    options = picture_look(look, dict.fromkeys(found.points["model"]), figure is not None)
    if output is not None:
        write(found.to_frame(), Path(output))
    if figure is not None:
        save_drawn(found.plot(over, **options), Path(figure), found.caption(over), err=True)
    say(as_records(found.to_frame()) if as_json else str(found))
