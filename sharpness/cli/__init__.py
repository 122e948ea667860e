"""The command line, a thin layer over the library.

Tables go to stdout, files to the paths given with ``-o`` or ``--out``, progress to stderr. A user error gives one line
and exit code 2, an interruption exit code 130.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any

import click

import sharpness
from sharpness.cli.compare import compare
from sharpness.cli.conflicts import conflicts
from sharpness.cli.correlate import correlate
from sharpness.cli.data import data
from sharpness.cli.evaluate import evaluate
from sharpness.cli.explore import explore
from sharpness.cli.figures import demo, figures
from sharpness.cli.history import history
from sharpness.cli.inspect import inspect
from sharpness.cli.landscape import landscape
from sharpness.cli.loudness import Notices, loudness_options
from sharpness.cli.measure import measure
from sharpness.cli.merge import merge
from sharpness.cli.output import say
from sharpness.cli.report import report
from sharpness.cli.spectrum import spectrum
from sharpness.cli.train import train
from sharpness.errors import LostProcess, UserError
from sharpness.files import refusal

#: Commands whose work is shared by processes under torchrun; every process would repeat the others.
SHARED = ("train", "measure", "spectrum", "landscape", "conflicts", "history", "inspect")


class Commands(click.Group):
    """The group of commands; some are refused under torchrun."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.params += loudness_options()

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command by name, and refuse it if torchrun's processes have nothing to share."""
        name, command, rest = super().resolve_command(ctx, args)
        processes = os.environ.get("WORLD_SIZE", "1")
        if "RANK" in os.environ and processes != "1" and name not in SHARED:
            raise UserError(f"sharpness {name} has nothing for {processes} processes to share: start it without "
                            "torchrun")  # fmt: skip
        return name, command, rest


SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110, "show_default": True}


@click.group(cls=Commands, context_settings=SETTINGS)
@click.version_option(sharpness.__version__, prog_name="sharpness")
def cli() -> None:
    """Per-class sharpness of deep long-tailed recognition: how flat is a minimum for every class?"""


for command in (
    train, measure, spectrum, landscape, conflicts, history, inspect, correlate, evaluate, explore, report, compare,
    merge, data, figures, demo,
):  # fmt: skip
    cli.add_command(command)


@contextmanager
def _surroundings() -> Iterator[None]:
    """Set up notices and, under torchrun, the process group; only the first process prints."""
    parallel = "RANK" in os.environ
    if parallel:  # otherwise torch is not loaded just to report a mistake
        from sharpness.engine import distributed

        distributed.start()
    notices, logger = Notices(), logging.getLogger("sharpness")
    logger.addHandler(notices)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        if not parallel or distributed.rank() == 0:
            yield
        else:
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
                yield
    finally:
        logger.removeHandler(notices)
        logger.setLevel(level)
        if parallel:
            distributed.stop()


def _discard_output() -> None:
    """Discard further output to a closed pipe or a full disk, including the flush at exit."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, and return its exit code."""
    # OpenMP reads this variable when torch is loaded, which no command has done yet. Threads that spin while they wait
    # take the cores from other processes: two commands on two cores took thirty times as long as one alone.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if sys.stdout is None:
        say(
            "sharpness: stdout is closed: there is nowhere to print to, redirect it, such as with > /dev/null", err=True
        )
        return 2
    try:
        with _surroundings():
            return _run(arguments)
    except UserError as error:  # joining the other processes failed
        return _failed(str(error))


def _run(arguments: list[str] | None) -> int:
    """Run a command, report an error in one line, and return the exit code."""
    try:
        cli.main(args=arguments, prog_name="sharpness", standalone_mode=False)
        sys.stdout.flush()
    except (UserError, FloatingPointError) as error:
        _discard_output()
        return _failed(str(error), lost=isinstance(error, LostProcess))
    except OSError as error:
        # Errors of writing files have a file name; those of printing do not.
        where = error.filename if isinstance(error.filename, str) else "stdout" if error.filename is None else "a file"
        _discard_output()
        return _failed(str(refusal(f"{where} cannot be used", error)))
    except click.ClickException as error:
        return _failed(f"{error.format_message()} (see --help)")
    except (KeyboardInterrupt, click.Abort):
        return _failed("interrupted; the same command continues what writes files ('train': --resume)", 130)
    return 0


def _failed(message: str, code: int = 2, lost: bool = False) -> int:
    """Print why a command failed, and return its exit code.

    Args:
        message: the reason.
        code: the exit code.
        lost: True if another process has ended; only one of the remaining processes reports it.
    """
    if not lost:
        say(f"sharpness: {message}", err=True)
    if "RANK" in os.environ:
        from sharpness.engine import distributed

        if lost:
            distributed.tell(message)
            os._exit(code)  # the process group cannot be shut down cleanly without the lost process
        distributed.told(message)
    return code
