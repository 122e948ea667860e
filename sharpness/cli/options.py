"""Options that several commands share, and what they stand for."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from typing import Any

import click

from sharpness.data import AUGMENTATIONS, DATASETS, LongTailData, load_data
from sharpness.errors import UserError

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
    return load_data(given["data"], **{name: given[name] for name in names}).augmented(given.get("augmentation"))


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
