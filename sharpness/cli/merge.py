"""``sharpness merge``."""

from __future__ import annotations

from pathlib import Path

import click

from sharpness.cli.options import OneExample, output_option
from sharpness.cli.output import RESULTS, as_noted, require_file, say, write_results


@click.command(cls=OneExample)
@click.argument("results", nargs=-1, required=True, type=click.Path())
@output_option("the merged results", ".nc, .csv, .json, .parquet or .tex")
def merge(results: tuple[str, ...], output: str | None) -> None:
    """Merge saved results of several runs, seeds or parts of the classes into one table and file.

    RESULTS are .nc files of one kind, or folders of them. Trainings of the same model become one row with mean and
    spread; results for different classes of the same training become one result; results that cannot be compared are
    refused.

    Example: sharpness merge ce-seed0.nc ce-seed1.nc gcl.nc -o all.nc
    """
    from sharpness.results.merged import merge as merged

    require_file("-o", output, RESULTS)
    found = merged(results)
    if output is not None:
        write_results(found, Path(output))
    say(as_noted(found))
