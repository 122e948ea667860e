"""``sharpness explore``."""

from __future__ import annotations

from pathlib import Path

import click

from sharpness.cli.options import OneExample
from sharpness.cli.output import require_file, say


@click.command(cls=OneExample)
@click.argument("results", nargs=-1, required=True, type=click.Path())
@click.option("-o", "--output", default="explorer.html", type=click.Path(), help="Write the page to this file.")
@click.option("--title", help="Heading of the page. [default: names of the arguments]")
def explore(results: tuple[str, ...], output: str, title: str | None) -> None:
    """Write saved results as one interactive page: class bars, plane, spectrum and owners, linked.

    RESULTS are .nc files or folders of them. Click on the plane to see the loss and accuracy of every class at that
    point. The page needs no models and opens in any browser, also offline.

    Example: sharpness explore runs/demo -o explorer.html
    """
    from sharpness.explorer import Explorer

    require_file("-o", output, (".html",))
    page = Explorer(list(results), title or ", ".join(Path(one).resolve().name for one in results))
    say(page.save(output))
