"""``sharpness correlate``."""

from __future__ import annotations

from typing import Any

import click

import sharpness
from sharpness.cli.grouped import grouped
from sharpness.cli.options import AS_JSON, OneExample, look_options, output_option, picture_look, plot_option
from sharpness.cli.output import TABLES, Delivery


@click.command(cls=OneExample)
@click.argument("table", type=click.Path())
@click.option("--test", type=click.Path(), help="Table of the same checkpoints on test images, for accuracy and gap.")
@click.option("--measures", help="Comma-separated columns of the table. [default: all but accuracy]")
@click.option("--given", help="Column to control for in partial correlations. [default: train, over classes]")
@click.option(
    "--resamples", default=2000, help="Number of bootstrap resamples of the checkpoints, or of the classes of one."
)
@click.option("--seed", default=0, help="Seed of the bootstrap.")
@output_option("the coefficients")
@plot_option("the scatter plot")
@click.option(
    "--over",
    type=click.Choice(["checkpoints", "classes"]),
    default="checkpoints",
    help="What each dot of the plot shows: a checkpoint, or a class of a checkpoint.",
)
@look_options
@AS_JSON
@grouped(shown=Delivery)
def correlate(
    table: str, test: str | None, measures: str | None, given: str | None, resamples: int, seed: int, over: str,
    shown: Delivery, **look: Any,
) -> None:  # fmt: skip
    """Print rank correlations of measures with accuracy, and with the gap between training and test accuracy.

    TABLE is a table of several checkpoints on training images, written by sharpness measure -o, or the table of a
    study's trainings. Kendall's tau is computed over checkpoints, over checkpoints of the same method, over classes,
    and over classes controlling for their numbers of training images, with 95 % intervals.

    Example: sharpness correlate out/train.csv --test out/test.csv --plot out/correlation
    """
    shown.require(TABLES)
    found = sharpness.correlate(table, test, measures=measures, given=given, resamples=resamples, seed=seed)
    options = picture_look(look, dict.fromkeys(found.points["model"]), shown.plot is not None)
    found.require_every(options.get("order"))
    shown.table(found.to_frame(), lambda: str(found), lambda: (found.plot(over, **options), found.caption(over)))
