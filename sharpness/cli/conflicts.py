"""``sharpness conflicts``."""

from __future__ import annotations

from typing import Any

import click

import sharpness
from sharpness.cli.completion import CHECKPOINTS
from sharpness.cli.options import (
    PARAMETERS,
    OneExample,
    measured_on,
    picture_look,
    probing_options,
    result_options,
    split_of,
)
from sharpness.cli.output import RESULTS, alone, deliver, require_file, require_picture
from sharpness.cli.work import work_beside


@click.command(cls=OneExample)
@CHECKPOINTS
@probing_options
@click.option("--per-group", is_flag=True, help="Optima of many, medium and few instead of classes.")
@click.option("--damping", default=0.01, show_default=True, help="Cost of a move by the norm of all weights, doubled.")
@click.option("--steps", default=8, show_default=True, help="Largest number of Gauss-Newton steps.")
@click.option("--cg-steps", default=30, show_default=True, help="Largest number of products in each step.")
@PARAMETERS
@result_options
def conflicts(
    checkpoints: tuple[str, ...], per_group: bool, damping: float, steps: int, cg_steps: int, parameters: str,
    as_json: bool, output: str | None, plot: str | None, **probed: Any,
) -> None:  # fmt: skip
    """Print where each class wants to go: the displacement to its own optimum, the loss there, and its worst conflict.

    Optima are damped: see sharpness.class_optima. The picture has the cosines between all displacements. With -o,
    unfinished work is kept beside the output, and the same command continues it.

    Example: sharpness conflicts runs/ldam/last.pt --plot conflicts
    """
    from sharpness.cli.subjects import subjects
    from sharpness.results.caption import caption

    require_file("-o", output, RESULTS)
    require_picture("--plot", plot)
    read, options = subjects(checkpoints, probed)
    look = picture_look(probed, read, plot is not None)
    shared: dict[str, Any] = {"data": options.pop("data", None), "options": {"parameters": parameters, **options}}
    work, partial = work_beside(output) if output is not None else (None, None)
    shared |= {"per_group": per_group, "keep_vectors": False, "resume": partial}
    results = sharpness.class_optima(read, damping, steps, cg_steps, **shared)
    what = "Cosines between displacements to the classes' own optima"
    deliver(
        results, lambda: alone(results).plot(**look), lambda: caption(what, results, split_of(probed)), work,
        as_json=as_json, output=output, plot=plot, remarks=lambda: [measured_on(probed)],
    )  # fmt: skip
