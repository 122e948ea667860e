"""``sharpness landscape``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import sharpness
from sharpness.cli.completion import CHECKPOINTS
from sharpness.cli.file_options import probing_options
from sharpness.cli.grouped import grouped
from sharpness.cli.options import CLUSTER, PARAMETERS, OneExample, executor_of, picture_look
from sharpness.cli.output import as_text, require_folder, save_drawn, say, split_of, write
from sharpness.cli.work import finish, work_of
from sharpness.errors import UserError, choose
from sharpness.files import shortened

if TYPE_CHECKING:
    from sharpness.objective import Objective
    from sharpness.results import Comparison


@dataclass(frozen=True)
class Surface:
    """Points, directions and precision of lines and planes."""

    points: int
    line_points: int
    extent: float
    directions: str
    adaptive: float
    precision: str
    seed: int
    resume: bool

    def require(self) -> None:
        """Refuse invalid settings before anything is evaluated."""
        for option, number, what in ("--plane", self.points, "plane"), ("--line", self.line_points, "line"):
            if number < 0 or number == 1:
                raise UserError(f"{option} {number}: give two points or more, or 0 for no {what}")
        if not self.points and not self.line_points:
            raise UserError("--plane 0 --line 0: there is nothing to draw; give one of them two points or more")
        if not (math.isfinite(self.extent) and self.extent > 0):
            raise UserError(f"--range {self.extent:g}: give a number above 0, such as 1")
        if not 0 <= self.adaptive < 1:
            raise UserError(f"--adaptive {self.adaptive:g}: give a part of the relief below 1, such as 0.01, or 0")


@dataclass(frozen=True)
class Pictures:
    """Subsets, quantity and kinds of pictures."""

    subsets: tuple[str, ...]
    per_class: bool
    quantity: str
    scale: str | None
    basins: bool
    interactive: bool

    def require(self, points: int) -> None:
        """Refuse pictures that cannot be drawn before anything is evaluated; ``points`` is the side of the plane."""
        from sharpness.plots.levels import SCALES
        from sharpness.results.subsets import QUANTITIES

        choose("--quantity", self.quantity, QUANTITIES)
        if self.scale is not None:
            choose("--scale", self.scale, list(SCALES))
        if self.scale is not None and not points:
            raise UserError(f"--scale {self.scale} is of the colours of a plane: leave it out with --plane 0")
        if self.interactive and not points:
            raise UserError("--interactive draws a plane: leave out --plane 0")
        if self.interactive and find_spec("plotly") is None:
            raise UserError("--interactive: plotly is not installed: pip install 'sharpness[interactive]'")
        if self.basins and (not points or self.quantity != "loss"):
            raise UserError(
                f"--basins are of the loss over a plane: leave out --quantity {self.quantity} and --plane {points}"
            )

    def file(self, kind: str) -> str:
        """Return the stem of a picture's file name: its kind, and its quantity unless that is the loss."""
        return kind if self.quantity == "loss" else f"{kind}-{self.quantity}"


@click.command(cls=OneExample)
@CHECKPOINTS
@probing_options
@click.option("--plane", "points", default=51, help="Number of points along each side of the plane; 0: no plane.")
@click.option(
    "--line", "line_points", default=0, help="Number of points of a line along the first direction; 0: no line."
)
@click.option("--range", "extent", default=1.0, help="Half the side of the plane, in units of the directions.")
@click.option(
    "--directions",
    default="filter",
    help="Directions: Gaussian with filter, layer or no normalisation (filter, layer, none); or hessian, gradient, "
    "gradient+hessian; or a FILE.npz.",
)
@click.option(
    "--adaptive", default=0.01, help="Tolerated relative error of interpolated points; 0: evaluate every point."
)
@click.option("--precision", default="auto", help="Precision of forward passes: auto, float32 or bfloat16.")
@PARAMETERS
@click.option(
    "--batchnorm",
    default="eval",
    help="BatchNorm statistics: eval (fixed), or recalibrate (re-estimated at every point).",
)
@click.option(
    "--of", "subsets", multiple=True, help="Class or group to plot. Repeatable. [default: all samples, groups]"
)
@click.option("--per-class", is_flag=True, help="Plot every class as well.")
@click.option(
    "--quantity", default="loss", help="Quantity to plot: loss, rise (above the unperturbed loss) or accuracy."
)
@click.option("--scale", help="Colour scale: clipped, log or linear. [default: clipped; for accuracy: linear]")
@click.option("--basins", is_flag=True, help="Outline the basins of planes, and print their depths, areas and saddles.")
@click.option(
    "--interactive", is_flag=True, help="Write an interactive surface for the browser as well, OUT/surface.html."
)
@click.option("--resume/--no-resume", default=True, help="Resume an interrupted run of the same command.")
@click.option("--seed", default=0, help="Seed of Gaussian directions.")
@CLUSTER
@click.option("-o", "--out", type=click.Path(), default="landscape", help="Folder for data files and figures.")
@grouped(surface=Surface, pictures=Pictures)
def landscape(
    checkpoints: tuple[str, ...], surface: Surface, pictures: Pictures, parameters: str, batchnorm: str, out: str,
    cluster: str | None, **probed: Any,
) -> None:  # fmt: skip
    """Plot the loss over a plane through each checkpoint, with shared directions, levels and colours.

    By default, all samples and the many, medium and few groups are plotted; choose others with --of. The numbers are
    written next to the figures: a NetCDF file and a VTK file (ParaView) per checkpoint, and one table. If runs differ
    only in their seed, a line shows their mean and spread and a plane shows the first run, unless --each is given. Run
    the same command again to resume an interrupted one. Under torchrun, processes share the points.

    Example: sharpness landscape runs/ce/last.pt runs/ldam/last.pt --plane 51 --range 1 --per-class --out landscape
    """
    from sharpness.cli.subjects import subjects
    from sharpness.plots.interactive import save_html
    from sharpness.probes import labelled_objectives

    require_folder("--out", out)
    surface.require()
    pictures.require(surface.points)
    axes, normalization = _directions(surface.directions)
    read, options = subjects(checkpoints, probed)
    look = picture_look(probed, read)
    scale = {} if pictures.scale is None else {"scale": pictures.scale}
    if "log" in look and pictures.scale not in (None, "log"):
        raise UserError(f"--scale {pictures.scale} and --log: give one of them")
    objectives = labelled_objectives(read, parameters=parameters, batchnorm=batchnorm, **options)
    _require_subsets(objectives, pictures.subsets)
    folder = Path(out)
    work = work_of(folder / ".partial")
    shared: dict[str, Any] = {
        "directions": axes, "normalization": normalization, "seed": surface.seed, "precision": surface.precision,
        "resume": work if surface.resume else None, "executor": executor_of(cluster),
    }  # fmt: skip
    span = (-surface.extent, surface.extent)
    if surface.line_points:
        first = axes.split("+")[0] if isinstance(axes, str) else axes
        lines = sharpness.line(objectives, (*span, surface.line_points), **{**shared, "directions": first})
        _draw(lines, folder, pictures, ("line",), split_of(probed), **look)
    if surface.points:
        grid = (*span, surface.points)
        # A plane shows one training of a model; the others are not evaluated.
        drawn_ones = {k: dict([next(iter(v.items()))]) if isinstance(v, dict) else v for k, v in objectives.items()}
        planes = sharpness.plane(drawn_ones, grid, grid, adaptive=surface.adaptive or None, **shared)
        for label, plane in planes.each().items():
            share = plane.evaluated.mean()
            say(f"{label}: {share:.0%} of {plane.losses.size} points evaluated, {plane.precision}", err=True)
        _draw(planes, folder, pictures, ("filled", "surface"), split_of(probed), **look, **scale)
        if pictures.basins:
            _report_basins(planes, folder, pictures.subsets)
        if pictures.interactive:
            turned: dict[str, Any] = {"order": look.get("order")} | ({"scale": "log"} if "log" in look else {})
            drawn = planes.plot(kind="interactive", quantity=pictures.quantity, **turned | scale)
            say(save_html(drawn, folder / f"{pictures.file('surface')}.html"))
    finish(work)


def _require_subsets(objectives: Mapping[str, Objective | dict[str, Objective]], subsets: Sequence[str]) -> None:
    """Refuse unknown classes and groups, and those without samples."""
    first = next(iter(objectives.values()))
    first = next(iter(first.values())) if isinstance(first, Mapping) else first
    names = [*first.groups, *first.class_names, "all"]
    for subset in subsets:
        choose("--of", subset, names)
        members = first.groups.get(subset, (first.class_names.index(subset),) if subset in first.class_names else None)
        if members is not None and not any(first.class_samples[c] for c in members):
            raise UserError(f"--of {subset}: it has no samples here, there is nothing to draw")


def _directions(given: str) -> tuple[Any, str | None]:
    """Return the directions and normalisation for the value of ``--directions``."""
    gaussian = {"filter": "filter", "layer": "layer", "none": None}
    if given in gaussian:
        return None, gaussian[given]
    return (sharpness.load_directions(given) if given.endswith(".npz") else given), "filter"


def _draw(
    results: Comparison, folder: Path, asked: Pictures, kinds: Sequence[str], split: str = "", **look: Any
) -> None:
    """Write the files of lines or planes, and a picture of each kind with subsets as rows and models as columns."""
    import numpy as np

    from sharpness.engine import distributed
    from sharpness.results.caption import caption
    from sharpness.results.subsets import subset_title

    if distributed.rank() != 0:
        return
    single = results.each()
    first = next(iter(single.values()))
    what = "line" if kinds == ("line",) else "plane"
    # Write numbers before pictures, because pictures can be redrawn from them.
    for result, name in zip(single.values(), _file_names(list(single)), strict=True):
        for suffix in (".nc", ".vtk") if what == "plane" else (".nc",):
            say(result.export(folder / f"{what}-{name}{suffix}"))
    write(results.to_frame(), folder / f"{what}s.csv", results)
    for suffix in (".csv", ".csv.json"):
        say(folder / f"{what}s{suffix}")
    groups = [g for g, classes in first.groups.items() if classes]
    pictures: dict[str, list[str | int | None]] = {"": list(asked.subsets) or [None, *groups]}
    if asked.per_class:
        names = _file_names(first.class_names)
        pictures |= {f"-class-{names[c]}": [int(c)] for c in np.flatnonzero(first.class_samples)}
    for suffix, rows in pictures.items():
        for kind in kinds:
            options = look if kind == "line" else {"kind": kind, **look}
            options |= {"basins": True} if asked.basins and kind == "filled" else {}
            drawn = results.plot(of=rows, quantity=asked.quantity, **options)
            name = asked.file("contour" if kind == "filled" else kind) + suffix
            drawn_rows = ", ".join(subset_title(first, row) for row in rows)
            heading = f"{asked.quantity.capitalize()} over a {what}: {drawn_rows}"
            told = caption(heading, results, split, look.get("order"))
            save_drawn(drawn, folder / name, told)


def _report_basins(planes: Comparison, folder: Path, subsets: Sequence[str]) -> None:
    """Print the basins of every model and subset, and write them as a table."""
    import pandas as pd

    from sharpness.engine import distributed

    if distributed.rank() != 0:
        return
    frames = []
    for label, plane in planes.each().items():
        for name in subsets or ["all", *(g for g in plane.groups if plane.classes_of(g))]:
            found = plane.basins(None if name == "all" else name).to_frame()
            frames.append(found.assign(model=label, of=name)[["model", "of", *found]])
    table = pd.concat(frames, ignore_index=True)
    write(table, folder / "basins.csv")
    say(as_text(table))
    say(folder / "basins.csv")


def _file_names(labels: Sequence[str]) -> list[str]:
    """Return file names for labels that are distinct even on case-insensitive file systems.

    >>> _file_names(["C++", "C", "c", "a b/c", ""])
    ['C', 'C-2', 'c-3', 'a-b-c', 'unnamed']
    """
    names: list[str] = []
    taken: set[str] = set()
    for label in labels:
        plain = name = shortened(re.sub(r"[^\w.-]+", "-", label).strip("-") or "unnamed")
        number = 1
        while name.casefold() in taken:
            number += 1
            name = f"{plain}-{number}"
        names.append(name)
        taken.add(name.casefold())
    return names
