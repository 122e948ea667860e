"""Unfinished work of commands, stored next to their output."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sharpness.files import refusal, shortened
from sharpness.locks import only_process

if TYPE_CHECKING:
    from sharpness.probes import WorkFolder

#: Options that do not change results: those of the output, and which workers compute them.
SHOWN = ("output", "figure", "plot", "as_json", "width", "order", "log", "cluster")


def work_of(folder: Path) -> WorkFolder:
    """Create a work folder, and lock it until the command ends.

    Raises:
        SystemRefusal: another process uses the folder, or it cannot be created.
    """
    from sharpness.engine import distributed
    from sharpness.probes import WorkFolder

    work = WorkFolder(folder)
    if distributed.rank() == 0:
        held = folder.parent
        try:
            held.mkdir(parents=True, exist_ok=True)
            lock = held / f".{shortened(folder.name)}.lock"
            click.get_current_context().with_resource(only_process(lock, "works on the same output", made=True))
            click.get_current_context().call_on_close(work.tidy)
        except OSError as error:
            raise refusal(f"cannot write to {held}", error) from None
    return work


def work_beside(output: str | Path) -> tuple[WorkFolder, Path]:
    """Create the work folder next to an output file, and return it and its subfolder for this command's settings."""
    from sharpness.probes import key_of

    output = Path(output)
    settings = {name: value for name, value in click.get_current_context().params.items() if name not in SHOWN}
    work = work_of(output.with_name(f"{shortened(output.name)}.partial"))
    return work, work.of(key_of(settings))


def finish(work: WorkFolder | None) -> None:
    """Remove the work of a finished command after all processes have read it."""
    import torch

    from sharpness.engine import distributed

    if work is None:
        return
    distributed.total(torch.zeros(1))
    if distributed.rank() == 0:
        work.clear()
