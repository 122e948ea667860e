"""``sharpness figures`` and ``sharpness demo``."""

from __future__ import annotations

from typing import Any

import click

from sharpness.cli.options import OneExample, data_options, load_described, training_options, training_settings
from sharpness.data import LongTailData, load_data
from sharpness.studies import METHODS as FIGURE_METHODS
from sharpness.studies import make_figures, to_markdown


@click.command(cls=OneExample)
@click.option("--methods", default=",".join(FIGURE_METHODS), show_default=True)
@data_options
@training_options
@click.option("--out", type=click.Path(), help="Folder of the figures. [figures/DATA]")
@click.option("--runs", type=click.Path(), default="runs", show_default=True, help="Folder of the trained models.")
@click.option("--grid", default=51, show_default=True, help="Points along each side of a plane.")
@click.option("--adaptive", default=0.01, show_default=True, help="Interpolate to this part of the relief; 0: do not.")
@click.option("--range", "extent", default=0.5, show_default=True, help="Half the side of a plane, in filter norms.")
@click.option("--split", default="train", show_default=True, help="Probe train or test images.")
@click.option("--loss", default="ce", show_default=True, help="ce on calibrated logits, or training.")
@click.option("--limit-per-class", type=int, help="Probe so many images of every class at most.")
def figures(
    methods: str, out: str | None, runs: str, grid: int, adaptive: float, extent: float, split: str, loss: str,
    limit_per_class: int | None, **given: Any,
) -> None:  # fmt: skip
    """Recreate the talk's figures: train what is missing, probe, draw, and print the summary.

    Example: sharpness figures --data cifar10-lt --epochs 10 --limit-per-class 20 --grid 15
    """
    _figures(
        load_described(given), methods.split(","), out or f"figures/{given['data']}", runs, grid=grid, extent=extent,
        adaptive=adaptive or None, split=split, loss=loss, limit_per_class=limit_per_class,
        data_root=given["data_root"], **training_settings(given),
    )  # fmt: skip


@click.command(cls=OneExample)
@click.option("--epochs", default=60, show_default=True, help="Of the first stage of every method.")
@click.option("--out", type=click.Path(), default="figures/demo", show_default=True)
@click.option("--runs", type=click.Path(), default="runs/demo", show_default=True)
def demo(epochs: int, out: str, runs: str) -> None:
    """Five methods on the embedded digits: trained, probed per class and drawn, in two or three minutes.

    Example: sharpness demo
    """
    _figures(load_data("digits-lt"), FIGURE_METHODS, out, runs, epochs=epochs)


def _figures(data: LongTailData, methods: Any, out: str, runs: str, **options: Any) -> None:
    drawn = make_figures(data, methods, out, runs, **options)
    click.echo(to_markdown(drawn.summary))
    click.echo("Accuracy in % on the test set; sharpness of the training loss; rise and worst rise: of the loss, under")
    click.echo(
        "random perturbation (± standard error) and after one ascent step; tail: mean of the few-shot classes.\n"
    )
    for path in drawn.files:
        click.echo(path)
