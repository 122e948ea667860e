"""``sharpness evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sharpness.cli.completion import CHECKPOINTS
from sharpness.cli.file_options import file_options
from sharpness.cli.grouped import grouped
from sharpness.cli.options import AS_JSON, OneExample, output_option, plot_option
from sharpness.cli.output import TABLES, Delivery, as_text, require_file, write
from sharpness.errors import UserError

#: Softmax probability below which the published protocol rejects an image.
THRESHOLD = 0.1


@click.command(cls=OneExample)
@CHECKPOINTS
@file_options
@click.option(
    "--open",
    "opened",
    help="Open set: a folder with one subfolder per class, a text file of 'path -1' lines, or cifar100. "
    "[default: the open part of the data]",
)
@click.option(
    "--open-root", type=click.Path(), help="Root folder of the paths in that list, or folder of the CIFAR-100 files."
)
@click.option("--threshold", default=THRESHOLD, help="Softmax probability below which an image is rejected.")
@output_option("the table")
@click.option(
    "--sweep",
    type=click.Path(),
    help="Write accuracies and F-measures at every threshold to this file: .csv, .json or .parquet.",
)
@plot_option("the sweep over thresholds")
@AS_JSON
@grouped(shown=Delivery)
def evaluate(
    checkpoints: tuple[str, ...], opened: str | None, open_root: str | None, threshold: float, sweep: str | None,
    shown: Delivery, **given: Any,
) -> None:  # fmt: skip
    """Evaluate open-set recognition: known test images together with images of unknown classes.

    An image is rejected if its largest softmax probability is below the threshold. The table gives the accuracy on
    known images without and with rejection, by group; the accuracy on the open set; the F-measure by both formulas in
    use (oltr-2020, OLTR's own, and oltr-2019 of classifier-balancing and BALMS); AUROC; and the false-positive rate at
    95 % true positives (the fraction of the open set that is accepted when 95 % of the known images are). Logits are
    the model's own and include the scale of its head.

    Example: sharpness evaluate runs/ce/last.pt --data-root prepared --plot sweep.pdf
    """
    import pandas as pd

    from sharpness.cli.subjects import crop_of, subjects
    from sharpness.probes.open_set.evaluation import evaluate_open_set, open_images, transform_of
    from sharpness.probes.shared.as_objective import checkpoint_objective
    from sharpness.probes.shared.checkpoint_data import open_part

    # Files that cannot be written are refused before minutes of computing.
    shown.require(TABLES)
    require_file("--sweep", sweep, TABLES)
    if open_root is not None and (opened is None or (opened != "cifar100" and Path(opened).is_dir())):
        raise UserError(f"--open-root {open_root} is for a list given with --open, or for cifar100: leave it out")
    if (given["logits"] or "").rpartition(",")[2] == "temperature":
        raise UserError("--logits temperature: leave it out, the table has columns at the model's temperature")
    if not 0 <= threshold <= 1:
        raise UserError(f"--threshold {threshold:g}: give a probability from 0 to 1")
    read, options = subjects(checkpoints, {**given, "loss": "ce"})
    if given["images"] is None:
        options["split"] = given["split"] or "test"
    crop = crop_of(read, given)
    results = {}
    for label, entry in read.items():
        for number, checkpoint in enumerate(entry if isinstance(entry, list) else [entry], 1):
            name = f"{label} {number}" if isinstance(entry, list) else label
            known = checkpoint_objective(checkpoint, **options)
            own = None if opened is not None else open_part(checkpoint, options.get("data"), options.get("data_root"))
            # As the known images were: another field of view would tell the two sets apart.
            transform = transform_of(known, crop.get("resize"))
            root = open_root or (given["data_root"] if opened == "cifar100" else None)
            unknown, names = open_images(opened, transform, root, own)
            results[name] = evaluate_open_set(name, known, unknown, names, threshold=threshold)
    table = pd.DataFrame([result.to_dict() for result in results.values()])
    swept = pd.concat([result.sweep() for result in results.values()], ignore_index=True)
    if sweep is not None:
        write(swept, Path(sweep))

    def draw() -> tuple[Any, dict[str, str]]:
        from sharpness.plots.threshold_sweep import plot_threshold_sweep

        return plot_threshold_sweep(swept, threshold), {
            "Shows": f"Known images right, open set rejected and F over the threshold; marked is {threshold:g}",
            "Models": ", ".join(results),
            "Images": f"{len(known.y):,} known and {len(unknown):,} of the open set",
        }

    def told() -> str:
        lines = [as_text(table.set_index("model").T.rename_axis("measure").reset_index())]
        for name, result in results.items():
            near = ", ".join(f"{o} (as {k}, {100 * share:.0f} %)" for o, k, share in result.nearest())
            lines.append(f"{name}: accepted most of the open set: {near}")
        return "\n".join(lines)

    shown.table(table, told, draw)
