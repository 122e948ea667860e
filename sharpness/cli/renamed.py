"""Old names of options, which work for one more version and warn with the new name."""

from __future__ import annotations

from collections.abc import Sequence

import click

from sharpness.cli.output import say
from sharpness.errors import UserError

#: New names of options by old name. A command that still has an option with the old name keeps it.
RENAMED = {
    "--class": "--of",
    "--class-counts": "--train-counts",
    "--directions": "--direction-seeds",
    "--figure": "--plot",
    "--grid": "--plane",
    "--probes": "--trace-draws",
    "--samples": "--limit-per-class",
    "--scope": "--parameters",
}


def by_new_names(command: click.Command, arguments: Sequence[str]) -> list[str]:
    """Replace old names of options in the arguments of a command, and warn on stderr.

    Raises:
        UserError: an option was given by both names.

    >>> command = click.Command("draw", params=[click.Option(["--plot"])])
    >>> by_new_names(command, ["runs", "--figure=a.pdf", "--", "--scope"])
    ['runs', '--plot=a.pdf', '--', '--scope']
    """
    known = {name for parameter in command.params for name in parameter.opts}
    end = list(arguments).index("--") if "--" in arguments else len(arguments)
    given = {argument.partition("=")[0] for argument in arguments[:end]}
    found = list(arguments)
    for i, argument in enumerate(arguments[:end]):
        old, equals, value = argument.partition("=")
        new = RENAMED.get(old, old)
        if new == old or old in known or new not in known:
            continue
        if new in given:
            raise UserError(f"{new} and {old}: both name the same option, give {new} alone")
        say(f"sharpness: {old} is now {new}: the old name goes with the next version", err=True)
        found[i] = f"{new}{equals}{value}"
    return found
