"""``sharpness report``."""

from __future__ import annotations

import click

from sharpness.cli.options import OneExample
from sharpness.cli.output import command_at_hand, require_folder, say


@click.command(cls=OneExample)
@click.argument("runs", nargs=-1, required=True, type=click.Path())
@click.option("-o", "--out", "output", default="report", type=click.Path(), help="Folder for the report.")
@click.option("--title", help="Heading of the page. [default: names of the arguments]")
def report(runs: tuple[str, ...], output: str, title: str | None) -> None:
    """Write a report of saved results: one HTML page and its PDF, figures, captions, tables, methods, references.

    RUNS are .nc files or folders of them, such as runs. Tables are written as CSV and as LaTeX with booktabs; the
    methods paragraph states formulas and settings. Models that cannot be compared are refused with the field that
    differs.

    Example: sharpness report runs/demo -o report
    """
    from sharpness.reporting import report as write_report

    require_folder("-o", output)
    made = write_report(runs, output, title, command_at_hand())
    for path in made.files:
        say(path)
    if made.remark:
        say(f"sharpness: {made.remark}", err=True)
