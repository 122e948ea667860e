"""Options for checkpoints, their images, and probes."""

from __future__ import annotations

import click

from sharpness.cli.names import CLASS_ORDERS, UNITS
from sharpness.cli.options import DATA_ROOT, DEVICE, LIMIT, LOSS, Offered, picture_options, several
from sharpness.registries import FAMILIES

#: Options for checkpoints, and for the images that they are evaluated on.
# No defaults, not even for flags: a value that is not None counts as given, and some options require others.
file_options = several(
    click.option(
        "--split",
        type=click.Choice(["train", "val", "test"]),
        help="Split of the data set. [default: train; for inspect and evaluate: test]",
    ),
    LIMIT,
    click.option("--data", help="Data set for a checkpoint of another code base, such as cifar10-lt."),
    click.option("--imbalance", type=float, help="Imbalance factor of --data. [default: that of the file's family]"),
    click.option("--subset", help="How the images of --data are selected. [default: as in the file's family]"),
    DATA_ROOT,
    click.option(
        "--download",
        is_flag=True,
        default=None,
        help="Download the CIFAR archive, or published weights, if they are missing.",
    ),
    click.option(
        "--images",
        type=click.Path(),
        help="Your own images: a folder with one subfolder per class, a text file of 'path label' lines, or an .npz.",
    ),
    click.option(
        "--root", type=click.Path(), help="Root folder of the paths in an image list. [default: the list's folder]"
    ),
    click.option(
        "--mean",
        multiple=True,
        help="Channel means of pixels in [0, 1], such as 0.49,0.48,0.45. Give it once, or once per file. "
        "[default: recorded in the file, or else computed]",
    ),
    click.option(
        "--std", multiple=True, help="Channel standard deviations, once or once per file. [default: as for --mean]"
    ),
    click.option("--size", type=int, help="Side of the central square crop. [default: the whole image]"),
    click.option("--resize", type=int, help="Length of the shorter side before the crop. [default: --size]"),
    click.option(
        "--layout",
        type=click.Choice(["channels-first", "channels-last"]),
        help="Axis order of the images in an .npz. [default: detected for 8- and 16-bit images, otherwise unchanged]",
    ),
    click.option(
        "--train-counts",
        help='JSON file with the number of training images per class, such as [30, 4] or {"cat": 30, "dog": 4}. '
        "[default: counted]",
    ),
    click.option(
        "--model",
        help="Network: package.module:factory (in the current folder or installed), timm:NAME, torchvision:NAME or "
        "hf:NAME_OR_FOLDER. Without a file, its published weights are used. [default: inferred from the weights]",
    ),
    click.option("--model-args", multiple=True, help="Arguments for the factory, such as 'depth=20, width=16'."),
    click.option(
        "--logits",
        help="Use 'temperature' to divide the logits by the model's own temperature. If the network returns several "
        "outputs, give the index or key of the logits, or KEY,temperature for both.",
    ),
    click.option(
        "--family",
        cls=Offered,
        registry="checkpoints",
        help=f"Checkpoint family, one of {', '.join(FAMILIES.built_in())}. [default: detected from the content]",
    ),
    click.option("--head", help=f"Type of the classifier head, if the file does not tell: {', '.join(UNITS)}."),
    click.option("--logit-scale", type=float, help="Logit scale of a cosine head. [default: that of the family]"),
    click.option(
        "--class-order",
        help=f"Class order of the model: {', '.join(CLASS_ORDERS)}, or a .json list. [default: that of the family]",
    ),
    click.option("--stage2", type=click.Path(), help="Second file of a model that was saved as two files."),
    click.option(
        "--weights", type=click.Choice(["model", "ema", "swa"]), help="Weights to load, if the file holds several sets."
    ),
    DEVICE,
)


#: Options for probes: file options, the loss, the grouping of runs, and options of pictures.
probing_options = several(
    file_options,
    LOSS,
    click.option(
        "--method",
        help="Your own method that the model was trained with, as package.module:recipe, for --loss training.",
    ),
    click.option(
        "--each",
        is_flag=True,
        help="Treat every file as its own model. [default: runs that differ only in their seed are one model]",
    ),
    picture_options,
)
