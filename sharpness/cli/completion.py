"""Shell completion of methods, measures, data sets and models of the zoo, without loading torch.

``eval "$(_SHARPNESS_COMPLETE=bash_source sharpness)"`` in ``~/.bashrc``; ``zsh_source`` and ``fish_source`` likewise.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

import sharpness
from sharpness.registries import HUBS

#: The same folder as in ``checkpoints/zoo.py``, which loads torch.
ZOO = Path(sharpness.__file__).parent / "zoo" / "cifar10-lt-100"


def completions(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    """Complete a name, or the last of several comma-separated names."""
    before, comma, last = incomplete.rpartition(",")
    return [CompletionItem(f"{before}{comma}{name}") for name in names if name.startswith(last)]


class Checkpoints(click.ParamType):
    """Parameter type for paths, models of the zoo, and networks of libraries."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        known = [*(f"zoo:{path.stem}" for path in sorted(ZOO.glob("*.safetensors"))), *(f"{hub}:" for hub in HUBS)]
        found = [CompletionItem(name) for name in known if incomplete and name.startswith(incomplete)]
        return found or [CompletionItem(incomplete, type="file")]


#: The argument of commands that read checkpoints.
CHECKPOINTS = click.argument("checkpoints", nargs=-1, type=Checkpoints())
