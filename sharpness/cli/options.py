"""Options that several commands share, and their values."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

import sharpness
from sharpness.cli.completion import completions
from sharpness.cli.loudness import loudness_options
from sharpness.cli.names import AUGMENTATIONS
from sharpness.cli.renamed import by_new_names
from sharpness.cli.values import inches
from sharpness.errors import UserError, choose
from sharpness.extensions import offered
from sharpness.registries import DATASETS, MEASURES
from sharpness.registry import ALL

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from sharpness.data import LongTailData

Command = Callable[..., Any]


class OneExample(click.Command):
    """A command that prints the example at the end of its docstring verbatim, and accepts old names of options."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.params += loudness_options()

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, by_new_names(self, args))

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
    """An option whose help text also lists names from installed packages.

    Args:
        registry: group of the entry points without ``sharpness.``, such as ``"measures"``.
    """

    def __init__(self, *names: Any, registry: str, **settings: Any) -> None:
        super().__init__(*names, **settings)
        self.registry = registry

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        found = offered(f"sharpness.{self.registry}")
        return (record[0], f"{record[1]} Installed: {', '.join(found)}.") if record and found else record

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete a name of the registry without importing anything."""
        known = MEASURES if self.registry == "measures" else ALL[f"sharpness.{self.registry}"].built_in()
        return completions([*known, *offered(f"sharpness.{self.registry}")], incomplete)


def several(*options: Command) -> Command:
    """Return a decorator that adds options to a command in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


# The same option for CIFAR, image lists and prepared images.
DATA_ROOT = click.option(
    "--data-root",
    type=click.Path(),
    help="Folder of the CIFAR files, of listed images, or of prepared images. [default: $SHARPNESS_DATA]",
)
DEVICE = click.option("--device", help="Device, such as cpu or cuda:0. [default: a GPU if available]")
LIMIT = click.option("--limit-per-class", type=int, help="Maximum number of images per class, for a quick look.")
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
LOSS = click.option("--loss", default="ce", help="Loss to probe: ce (cross-entropy of calibrated logits) or training.")
PARAMETERS = click.option(
    "--parameters",
    default="all",
    help="Parameters to probe: all, backbone, classifier, or a pattern of parameter names.",
)


def tol_option(default: float = 1e-3) -> Command:
    """Return the option ``--tol``."""
    return click.option(
        "--tol",
        default=default,
        help="Tolerance on eigenvalue residuals: relative to the largest eigenvalue, and 5 times this relative to its "
        "own.",
    )


def was_given(name: str) -> bool:
    """Return True if an option was given on the command line."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


TOL = tol_option()
SEEDS = click.option("--seeds", default="0,1,2", help="Training seeds; every method is trained with each.")
JOBS = click.option(
    "--jobs",
    type=int,
    help="Number of trainings to run in parallel. [default: one per processor, up to 4; 1 with a GPU]",
)
CLUSTER = click.option(
    "--cluster",
    help="Run on workers: processes:N, dask:ADDRESS, slurm:partition=NAME,gpus=1 or local:N (see the documentation). "
    "[default: this process]",
)


def executor_of(cluster: str | None) -> Executor | None:
    """Return the executor for ``--cluster``, which is closed when the command ends; None for this process."""
    if cluster is None:
        return None
    return click.get_current_context().with_resource(sharpness.cluster(cluster))


def output_option(what: str, formats: str = ".csv, .json or .parquet") -> Command:
    """Return the option for the output file of a table."""
    return click.option("-o", "--output", type=click.Path(), help=f"Write {what} to this file: {formats}.")


def plot_option(what: str) -> Command:
    """Return the option for the file of a picture."""
    return click.option("--plot", type=click.Path(), help=f"Plot {what}, as PDF and PNG.")


#: Options for printing, writing and plotting results.
result_options = several(
    AS_JSON,
    output_option("the results", ".csv, .json, .parquet, .nc, or .tex for a LaTeX table"),
    plot_option("the results"),
)

#: Options that describe a long-tailed data set.
# No defaults here, because every data set has its own; a value that is not None counts as given.
data_options = several(
    click.option(
        "--data",
        default="digits-lt",
        cls=Offered,
        registry="datasets",
        help=f"Data set: one of {', '.join(DATASETS.built_in())}.",
    ),
    DATA_ROOT,
    click.option("--lists", type=click.Path(), help="Folder of the image lists. [default: the data root]"),
    click.option("--download", is_flag=True, help="Download the official CIFAR archive if it is missing."),
    click.option("--profile", help="Shape of the long tail: exp or step. [default: exp]"),
    click.option(
        "--imbalance", type=float, help="Imbalance factor: size of the largest class divided by that of the smallest."
    ),
    click.option("--subset", help="How the kept images are selected: ldam_seed0, first_n or seed:<int>."),
    click.option(
        "--groups", help="Convention that defines many-, medium- and few-shot classes, such as oltr or mislas."
    ),
)


def coordinates_option(usual: str = "plain") -> Callable[[Command], Command]:
    """Return the option for the coordinates of curvature with the default of a command."""
    return click.option(
        "--coordinates",
        default=usual,
        help="Coordinates for curvature: plain, or filter (invariant to rescaling of filters).",
    )


#: Options for the look of pictures.
look_options = several(
    click.option("--order", help="Comma-separated labels of the models to plot, in this order."),
    click.option("--width", help="Figure width: single (3.3 in), double (6.9 in), or a number of inches."),
    click.option("--log", is_flag=True, help="Plot values on a logarithmic scale."),
)
#: The same, with the names of the models.
picture_options = several(
    click.option(
        "--label", "named", multiple=True, help="Name of a checkpoint in tables and figures, as NAME=FILE. Repeatable."
    ),
    look_options,
)


def picture_look(given: dict[str, Any], labels: Iterable[str], drawn: bool = True) -> dict[str, Any]:
    """Return the options of pictures, and check them before anything is computed.

    Args:
        given: values of :func:`picture_options` by name.
        labels: labels of the models.
        drawn: True if there will be a picture.

    Raises:
        UserError: an unknown label, an invalid width, or options without a picture.
    """
    look: dict[str, Any] = {}
    if given["order"] is not None:
        look["order"] = [name.strip() for name in given["order"].split(",")]
        for name in look["order"]:
            choose("label in --order", name, list(labels))
    if given["width"] is not None:
        look["width"] = inches(given["width"])
    if given["log"]:
        look["log"] = True
    if look:
        from sharpness.plots import PlotOptions  # loads matplotlib, which tables do not need

        PlotOptions(**look)
        if not drawn:
            raise UserError(f"--{next(iter(look))} is for a picture: name its file, too")
    return look


#: Options for training runs, except their seeds.
training_options = several(
    click.option(
        "--epochs", type=int, help="Epochs of the first stage; later stages scale with it. [default: as published]"
    ),
    click.option("--model", help="Architecture, such as resnet32. [default: depends on the data set]"),
    click.option("--batch-size", type=int, help="Batch size. [default: as published, smaller for tiny data sets]"),
    click.option("--precision", default="auto", help="Training precision: auto, float32 or bfloat16."),
    DEVICE,
    click.option(
        "--augmentation", help=f"Augmentation, one of {', '.join(AUGMENTATIONS)}. [default: depends on the data set]"
    ),
)


def load_described(given: dict[str, Any]) -> LongTailData:
    """Load the data set described by the options of a command."""
    names = ("profile", "imbalance", "subset", "groups", "data_root", "download", "lists")
    return sharpness.load_data(given["data"], **{name: given.get(name) for name in names}).augmented(
        given.get("augmentation")
    )


def training_settings(given: dict[str, Any]) -> dict[str, Any]:
    """Return the options that :func:`~sharpness.train` takes by the same names."""
    return {name: given[name] for name in ("epochs", "model", "batch_size", "precision", "device")}
