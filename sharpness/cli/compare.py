"""``sharpness compare``."""

from __future__ import annotations

from pathlib import Path

import click

from sharpness.cli.options import AS_JSON, OneExample, output_option
from sharpness.cli.output import TABLES, as_records, require_file, say, write


@click.command(cls=OneExample)
@click.argument("old", type=click.Path())
@click.argument("new", type=click.Path())
@AS_JSON
@output_option("all values, side by side,")
def compare(old: str, new: str, as_json: bool, output: str | None) -> None:
    """Print the differences between two result files or folders: settings, and values beyond their errors.

    OLD and NEW are .nc files or folders of them with results of the same models, such as before and after an update.
    Results for different samples, losses or radii are refused with the field that differs.

    Example: sharpness compare before.nc after.nc
    """
    from sharpness.results.differences import differences

    require_file("-o", output, TABLES)
    found = differences(old, new)
    if output is not None:
        write(found.values, Path(output))
    say(as_records(found.beyond) if as_json else found)
