"""``sharpness landscape``."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

import sharpness
from sharpness.cli.options import OneExample
from sharpness.cli.output import require_folder, save_drawn, write
from sharpness.cli.subjects import probing_options, subjects
from sharpness.engine import distributed
from sharpness.plots.interactive import save_html
from sharpness.results import Comparison


@click.command(cls=OneExample)
@click.argument("checkpoints", nargs=-1, required=True)
@probing_options
@click.option("--plane", "points", default=51, show_default=True, help="Points along each side; 0 for no plane.")
@click.option("--line", "line_points", default=0, help="Also the line along the first direction, of so many points.")
@click.option("--range", "extent", default=1.0, show_default=True, help="Half the side, in lengths of the directions.")
@click.option(
    "--directions",
    default="filter",
    show_default=True,
    help="filter, layer or none (Gaussian, so normalised); hessian, gradient+hessian, ...; or a saved FILE.npz.",
)
@click.option("--adaptive", default=0.01, show_default=True, help="Interpolate to this part of the relief; 0: do not.")
@click.option("--precision", default="auto", show_default=True, help="auto, float32 or bfloat16.")
@click.option("--scope", default="all", show_default=True, help="all, backbone, classifier or a pattern of names.")
@click.option("--batchnorm", default="eval", show_default=True, help="eval or recalibrate: statistics at each point.")
@click.option("--class", "subsets", multiple=True, help="Draw a class or a group alone. Repeatable.")
@click.option("--per-class", is_flag=True, help="Draw every class, too.")
@click.option("--scale", default="clipped", show_default=True, help="Of the colours: clipped, log or linear.")
@click.option("--interactive", is_flag=True, help="Also a surface to turn in the browser, OUT/surface.html.")
@click.option("--resume/--no-resume", default=True, show_default=True, help="Go on with points that are done.")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=click.Path(), default="landscape", show_default=True, help="Folder for files and pictures.")
def landscape(
    checkpoints: tuple[str, ...], points: int, line_points: int, extent: float, directions: str, adaptive: float,
    precision: str, scope: str, batchnorm: str, subsets: tuple[str, ...], per_class: bool, scale: str,
    interactive: bool, resume: bool, seed: int, out: str, **probed: Any,
) -> None:  # fmt: skip
    """Draw the loss over a plane through each checkpoint, with shared directions, levels and colours.

    All samples, and many, medium and few, unless --class says otherwise. Beside the pictures stand the numbers: a
    NetCDF file and a VTK file (ParaView) of every checkpoint, and one table of all. The same command goes on with
    unfinished work. Under torchrun the points are shared among the processes.

    Example: sharpness landscape runs/ce/last.pt runs/ldam/last.pt --plane 51 --range 1 --per-class --out landscape
    """
    require_folder("--out", out)
    axes, normalization = _directions(directions)
    read, options = subjects(checkpoints, probed)
    objectives = {
        label: sharpness.checkpoint_objective(checkpoint, parameters=scope, batchnorm=batchnorm, **options)
        for label, checkpoint in read.items()
    }
    folder, partial = Path(out), Path(out) / ".partial"
    shared: dict[str, Any] = {
        "directions": axes, "normalization": normalization, "seed": seed, "precision": precision,
        "resume": partial if resume else None,
    }  # fmt: skip
    span = (-extent, extent)
    if line_points:
        first = axes.split("+")[0] if isinstance(axes, str) else axes
        lines = sharpness.line(objectives, (*span, line_points), **{**shared, "directions": first})
        _draw(lines, folder, subsets, per_class, ("line",))
    if points:
        grid = (*span, points)
        planes = sharpness.plane(objectives, grid, grid, adaptive=adaptive or None, **shared)
        for label, plane in planes.items():
            share = plane.evaluated.mean()
            click.echo(f"{label}: {share:.0%} of {plane.losses.size} points evaluated, {plane.precision}", err=True)
        _draw(planes, folder, subsets, per_class, ("filled", "surface"), scale=scale)
        if interactive:
            click.echo(save_html(planes.plot(kind="interactive"), folder / "surface.html"))
    if distributed.rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)


def _directions(given: str) -> tuple[Any, str | None]:
    """What ``--directions`` stands for: directions and normalisation of a probe."""
    gaussian = {"filter": "filter", "layer": "layer", "none": None}
    if given in gaussian:
        return None, gaussian[given]
    return (sharpness.load_directions(given) if given.endswith(".npz") else given), "filter"


def _draw(
    results: Comparison, folder: Path, subsets: Sequence[str], per_class: bool, kinds: Sequence[str], **look: Any
) -> None:
    """Files of some lines or planes, and a picture of each kind: rows of subsets, columns of models."""
    if distributed.rank() != 0:
        return
    first = next(iter(results.values()))
    what = "line" if kinds == ("line",) else "plane"
    for label, result in results.items():
        stem = f"{what}-{_file_name(label)}"
        for suffix in (".nc", ".vtk") if what == "plane" else (".nc",):
            click.echo(result.export(folder / f"{stem}{suffix}"))
    write(results.to_frame(), folder / f"{what}s.csv")
    click.echo(folder / f"{what}s.csv")
    groups = [g for g, classes in first.groups.items() if classes]
    pictures: dict[str, list[str | None]] = {"": list(subsets) if subsets else [None, *groups]}
    if per_class:
        probed = zip(first.class_names, first.class_samples, strict=True)
        pictures |= {f"-class-{_file_name(name)}": [name] for name, samples in probed if samples}
    for suffix, rows in pictures.items():
        for kind in kinds:
            options = look if kind == "line" else {"kind": kind, **look}
            drawn = results.plot(subset=rows, **options)
            save_drawn(drawn, folder / f"{'contour' if kind == 'filled' else kind}{suffix}")


def _file_name(label: str) -> str:
    return re.sub(r"[^\w.-]+", "-", label).strip("-")
