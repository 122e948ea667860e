"""Verbosity of every command, ``-q`` and ``-v``: levels of the logger ``sharpness`` on stderr."""

from __future__ import annotations

import logging
import time
from typing import Any

import click

from sharpness.cli.output import say

#: Levels by the number of ``-v`` minus the number of ``-q``; errors are always shown.
LEVELS = {-2: logging.ERROR, -1: logging.WARNING, 0: logging.INFO, 1: logging.DEBUG}
_BEGIN = time.monotonic()


class Notices(logging.Handler):
    """A handler that prints every notice once on stderr, with time and module name if verbose."""

    def __init__(self) -> None:
        super().__init__()
        self.said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message in self.said:
            return
        self.said.add(message)
        verbose = logging.getLogger("sharpness").level <= logging.DEBUG
        where = f" {time.monotonic() - _BEGIN:.1f} s {record.module}:" if verbose else ""
        say(f"sharpness:{where} {message}", err=True)


def _set_level(ctx: click.Context, param: click.Parameter, value: int) -> None:
    if value:
        logger = logging.getLogger("sharpness")
        sign = 1 if param.name == "verbose" else -1
        now = next((n for n, level in LEVELS.items() if level == logger.level), 0)
        logger.setLevel(LEVELS[max(-2, min(1, now + sign * value))])


def loudness_options() -> list[click.Option]:
    """Return the options ``-q`` and ``-v``, which do not change tables and files."""
    shared: dict[str, Any] = {
        "count": True,
        "expose_value": False,
        "show_default": False,
        "is_eager": True,
        "callback": _set_level,
    }
    return [
        click.Option(
            ["-q", "--quiet"], help="Show only warnings and errors, no progress; -qq shows only errors.", **shared
        ),
        click.Option(["-v", "--verbose"], help="Show details on stderr, with times and module names.", **shared),
    ]
