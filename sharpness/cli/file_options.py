"""Options of checkpoints, of their images, and of probes of both."""

from __future__ import annotations

import click

from sharpness.cli.names import CLASS_ORDERS, UNITS
from sharpness.cli.options import DATA_ROOT, DEVICE, LIMIT, LOSS, Offered, picture_options, several
from sharpness.registries import FAMILIES

#: Options of checkpoints, and of the images that they are evaluated on.
# No defaults, not even of flags: what is not None counts as given, and some options only go with others.
file_options = several(
    click.option(
        "--split",
        type=click.Choice(["train", "val", "test"]),
        help="Split of recorded or named data. [train; inspect: test]",
    ),
    LIMIT,
    click.option("--data", help="Data set of a foreign file, such as cifar10-lt."),
    click.option("--imbalance", type=float, help="Imbalance factor of that data set. [the one of the file's family]"),
    click.option("--subset", help="Rule for the images of it that are kept. [the one of the file's family]"),
    DATA_ROOT,
    click.option(
        "--download",
        is_flag=True,
        default=None,
        help="Fetch the CIFAR archive, or published weights, if they are missing.",
    ),
    click.option(
        "--images",
        type=click.Path(),
        help="Your own images: a folder with one folder per class, a list of 'path label' lines, or an .npz.",
    ),
    click.option("--root", type=click.Path(), help="Root folder of the paths in a list. [folder of the list]"),
    click.option(
        "--mean",
        multiple=True,
        help="Mean of every channel, such as 0.49,0.48,0.45, of pixels in [0, 1]. Once, or once per file. "
        "[recorded in the file, else computed]",
    ),
    click.option(
        "--std", multiple=True, help="Standard deviation of every channel, once or once per file. [as the mean]"
    ),
    click.option("--size", type=int, help="Side of the central square that images are cropped to. [the whole image]"),
    click.option("--resize", type=int, help="Shorter side that images are resized to before the crop. [size]"),
    click.option(
        "--layout",
        type=click.Choice(["channels-first", "channels-last"]),
        help="Axis order of the images in an .npz. [detected for 8- and 16-bit images, else as they are]",
    ),
    click.option(
        "--train-counts",
        help='JSON file with the training images of each class, [30, 4] or {"cat": 30, "dog": 4}. [counted]',
    ),
    click.option(
        "--model",
        help="Network: package.module:factory, local or installed, or timm:NAME, torchvision:NAME, "
        "hf:NAME_OR_FOLDER; without a file, with its published weights. [derived from the weights]",
    ),
    click.option("--model-args", multiple=True, help="Arguments of your factory, such as 'depth=20, width=16'."),
    click.option(
        "--logits",
        help="Logits at the model's own temperature (temperature); or index or key of the logits, if the "
        "network returns several outputs; or both, KEY,temperature.",
    ),
    click.option(
        "--family",
        cls=Offered,
        registry="checkpoints",
        help=f"Family of the file, one of {', '.join(FAMILIES.built_in())}. [derived from its content]",
    ),
    click.option("--head", help=f"Kind of a foreign head, where the file leaves it open: {', '.join(UNITS)}."),
    click.option("--logit-scale", type=float, help="Logit scale of a foreign cosine head. [the usual one]"),
    click.option(
        "--class-order",
        help=f"Class order of the model: {', '.join(CLASS_ORDERS)}, or a .json list. [that of the family]",
    ),
    click.option("--stage2", type=click.Path(), help="Second file of a model that was saved in two."),
    click.option(
        "--weights", type=click.Choice(["model", "ema", "swa"]), help="Weights to read, if the file has several."
    ),
    DEVICE,
)


#: Options of probes: those of files, the loss, the grouping of runs, and what is drawn.
probing_options = several(
    file_options,
    LOSS,
    click.option(
        "--method",
        help="Method of your own that a file was trained with, package.module:recipe, for its training loss.",
    ),
    click.option(
        "--each",
        is_flag=True,
        help="Treat every file as a model, even if runs differ only in their seed. [one model with its spread]",
    ),
    picture_options,
)
