"""``sharpness conflicts``."""

from __future__ import annotations

from typing import Any

import click

import sharpness
from sharpness.cli.completion import CHECKPOINTS
from sharpness.cli.file_options import probing_options
from sharpness.cli.grouped import grouped
from sharpness.cli.options import PARAMETERS, OneExample, picture_look, result_options
from sharpness.cli.output import Delivery


@click.command(cls=OneExample)
@CHECKPOINTS
@probing_options
@click.option("--per-group", is_flag=True, help="Use the optima of many, medium and few instead of classes.")
@click.option("--damping", default=0.01, help="Damping mu; moving by the norm of all weights costs mu/2.")
@click.option("--steps", default=8, help="Maximum number of Gauss-Newton steps.")
@click.option("--cg-steps", default=30, help="Maximum number of conjugate-gradient steps per Gauss-Newton step.")
@PARAMETERS
@result_options
@grouped(shown=Delivery)
def conflicts(
    checkpoints: tuple[str, ...], per_group: bool, damping: float, steps: int, cg_steps: int, parameters: str,
    shown: Delivery, **probed: Any,
) -> None:  # fmt: skip
    """Print each class's displacement to its own optimum, its loss there, and the class it conflicts with most.

    Optima are damped: see sharpness.class_optima. The figure shows the cosines between all displacements. With -o, run
    the same command again to resume an interrupted one.

    Example: sharpness conflicts runs/ldam/last.pt --plot conflicts
    """
    from sharpness.cli.subjects import subjects

    shown.require()
    read, options = subjects(checkpoints, probed)
    look = picture_look(probed, read, shown.plot is not None)
    work, partial = shown.work()
    shared: dict[str, Any] = {"data": options.pop("data", None), "options": {"parameters": parameters, **options}}
    results = sharpness.class_optima(
        read, damping, steps, cg_steps, per_group=per_group, keep_vectors=False, resume=partial, **shared
    )
    shown.results(results, "Cosines between displacements to the classes' own optima", probed, look, work)
