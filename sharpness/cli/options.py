"""Options that several commands share, and what they stand for."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

import sharpness
from sharpness.cli.names import AUGMENTATIONS, CLASS_ORDERS, DATASETS, FAMILIES, UNITS
from sharpness.errors import UserError
from sharpness.extensions import offered

if TYPE_CHECKING:
    from sharpness.data import LongTailData

Command = Callable[..., Any]


class OneExample(click.Command):
    """A command whose docstring may end in an example that is shown as it is."""

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        text, _, example = inspect.cleandoc(self.help or "").partition("Example:")
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(text.strip())
        if example:
            with formatter.section("Example"):
                for row in example.strip().splitlines():
                    formatter.write(f"  {row.strip()}\n")


class Offered(click.Option):
    """An option whose help, when it is asked for, also lists what installed packages offer.

    Args:
        registry: the group of their entry points without ``sharpness.``, such as ``"measures"``.
    """

    def __init__(self, *names: Any, registry: str, **settings: Any) -> None:
        super().__init__(*names, **settings)
        self.registry = registry

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        found = offered(self.registry)
        return (record[0], f"{record[1]} Installed: {', '.join(found)}.") if record and found else record


def several(command: Command, options: list[Command]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def data_options(command: Command) -> Command:
    """Options that describe a long-tailed data set."""
    return several(
        command,
        [
            click.option("--data", default="digits-lt", show_default=True, help=f"One of {', '.join(DATASETS)}."),
            click.option("--data-root", type=click.Path(), help="Folder of the CIFAR files; else $SHARPNESS_DATA."),
            click.option("--download", is_flag=True, help="Fetch the official CIFAR archive if it is missing."),
            click.option("--profile", help="exp or step; exp unless given."),
            click.option("--imbalance", type=float, help="Largest over smallest class."),
            click.option("--subset", help="ldam_seed0, first_n or seed:<int>: which images are kept."),
            click.option("--groups", help="Convention of many, medium and few, such as oltr or mislas."),
        ],
    )


def file_options(command: Command) -> Command:
    """Options of checkpoints, and of the images that they are evaluated on."""
    numbers = "such as 0.49,0.48,0.45, of pixels in [0, 1]."
    return several(
        command,
        [
            click.option(
                "--split",
                type=click.Choice(["train", "test"]),
                help="Of recorded or named data. [train; inspect: test]",
            ),
            click.option(
                "--limit-per-class", type=int, help="At most so many images of every class, for a quick look."
            ),
            click.option("--data", help="Data set of a foreign file, which records none, such as cifar10-lt."),
            click.option("--imbalance", type=float, help="Of that data set. [what the file's family used]"),
            click.option("--subset", help="Which images of it are kept. [what the file's family kept]"),
            click.option("--data-root", type=click.Path(), help="Folder of the CIFAR files; else $SHARPNESS_DATA."),
            click.option("--download", is_flag=True, default=None, help="Fetch the CIFAR archive if it is missing."),
            click.option(
                "--images",
                type=click.Path(),
                help="Your own: a folder with one folder for each class, a list with 'path label' a line, or an .npz.",
            ),
            click.option("--root", type=click.Path(), help="Where the paths of a list begin. [the list's folder]"),
            click.option(
                "--mean",
                multiple=True,
                help=f"Per channel, {numbers} Once for all files, or for each. [known of the file, else computed]",
            ),
            click.option("--std", multiple=True, help="Likewise."),
            click.option("--size", type=int, help="Side of the central square that is kept. [the whole image]"),
            click.option("--resize", type=int, help="Shorter side before that. [size]"),
            click.option(
                "--layout",
                type=click.Choice(["channels-first", "channels-last"]),
                help="Of the images in an .npz. [told from 8- or 16-bit ones, other numbers as they are]",
            ),
            click.option(
                "--class-counts",
                help='A JSON file with the training images of each class, [30, 4] or {"cat": 30, "dog": 4}. [counted]',
            ),
            click.option(
                "--model",
                help="Your own network, package.module:factory; here or installed. [told from the weights]",
            ),
            click.option("--model-args", multiple=True, help="Of the factory, such as 'depth=20, width=16'."),
            click.option("--logits", help="Index or key of the logits, if the network returns several things."),
            click.option("--family", help=f"Of the file, one of {', '.join(FAMILIES)}. [found out]"),
            click.option(
                "--head", help=f"What a foreign head was trained as, where the file leaves it open: {', '.join(UNITS)}."
            ),
            click.option(
                "--logit-scale", type=float, help="Of a foreign cosine head, which no file tells. [usual one]"
            ),
            click.option(
                "--class-order",
                help=f"How the model numbers classes: {', '.join(CLASS_ORDERS)}, or a .json list. [the family's]",
            ),
            click.option("--stage2", type=click.Path(), help="Second file of a model that was saved in two."),
            click.option("--weights", type=click.Choice(["model", "ema", "swa"]), help="Which of those in the file."),
            click.option("--device", help="Such as cpu or cuda:0. [a GPU if there is one]"),
        ],
    )


def probing_options(command: Command) -> Command:
    """Those, the loss that is probed, and what counts as one model."""
    loss = click.option("--loss", default="ce", show_default=True, help="ce on calibrated logits, or training.")
    each = click.option(
        "--each", is_flag=True, help="Keep runs apart that differ in their seed alone. [one model, with its spread]"
    )
    return file_options(loss(each(command)))


def training_options(command: Command) -> Command:
    """Options of training runs, but their seeds."""
    return several(
        command,
        [
            click.option("--epochs", type=int, help="Of the first stage, later ones in proportion. [published]"),
            click.option("--model", help="Architecture, such as resnet32. [the data set's usual one]"),
            click.option("--batch-size", type=int, help="[published, smaller for tiny data sets]"),
            click.option("--precision", default="auto", show_default=True, help="auto, float32 or bfloat16."),
            click.option("--device", help="Such as cpu or cuda:0. [a GPU if there is one]"),
            click.option("--augmentation", help=f"Of {', '.join(AUGMENTATIONS)}. [the data set's usual one]"),
        ],
    )


def load_described(given: dict[str, Any]) -> LongTailData:
    names = ("profile", "imbalance", "subset", "groups", "data_root", "download")
    return sharpness.load_data(given["data"], **{name: given[name] for name in names}).augmented(
        given.get("augmentation")
    )


def training_settings(given: dict[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in ("epochs", "model", "batch_size", "precision", "device")}


def pair(text: str) -> tuple[str, Any]:
    """``"key=value"`` with a Python literal or a bare word as value."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise UserError(f"option {text!r}: write it as name=value")
    return key, literal(value)


def literal(text: str) -> Any:
    """A Python literal, true or false in any case, or else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False}.get(text.lower(), text)


def keywords(text: str) -> dict[str, Any]:
    """``"depth=20, blocks=(5, 5, 4), head=linear"`` as keyword arguments: literals and bare words, nothing is run.

    >>> keywords("depth=20, blocks=(5, 5, 4), head=linear, wide=false")
    {'depth': 20, 'blocks': (5, 5, 4), 'head': 'linear', 'wide': False}
    """
    try:
        call = ast.parse(f"f({text})", mode="eval").body
    except (SyntaxError, ValueError):
        call = None
    if not isinstance(call, ast.Call) or call.args or any(k.arg is None for k in call.keywords):
        raise UserError(f"arguments {text!r}: write them as name=value, name=value")
    return {str(k.arg): literal(ast.unparse(k.value)) for k in call.keywords}
