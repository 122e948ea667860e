"""The pictures of the talk, drawn from results of probes, with their numbers and captions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from sharpness.checkpoints import load_checkpoint
from sharpness.data import LongTailData
from sharpness.errors import UserError
from sharpness.files import picture_file, write_csv
from sharpness.plots import save_figure
from sharpness.probes import correlate, line, plane, random_perturbation
from sharpness.probes.perturbations.random import RADII
from sharpness.results import Comparison
from sharpness.results.caption import caption, write_caption
from sharpness.results.comparison import first_of
from sharpness.studies.cells import Cell, folder_of
from sharpness.studies.curvature import ENDS, draw_curvature
from sharpness.studies.motivation import columns_of, draw_motivation
from sharpness.studies.settings import Settings, require_distinct
from sharpness.studies.spectra import draw_spectra, head_and_tail
from sharpness.studies.visualization import draw_lines, draw_planes, drawn_numbers


@dataclass(frozen=True)
class FigureSettings(Settings):
    """Settings of a study and its landscapes.

    Args:
        radii: radii of random perturbations.
        grid: number of points along each side of the plane; the line has twice as many minus one.
        extent: half the length of line and plane, in filter norms.
        adaptive: tolerance of the interpolation of planes, relative to their relief; None evaluates every point.
        directions: seeds of the directions of lines and planes; each has its own row of panels.

    Raises:
        UserError: settings that no landscape can have, before anything is trained.
    """

    radii: tuple[float, ...] = RADII
    grid: int = 51
    extent: float = 0.5
    adaptive: float | None = 0.01
    directions: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        if self.grid < 2:
            raise UserError(f"grid={self.grid} (--plane): give two points or more along each side")
        if not (math.isfinite(self.extent) and self.extent > 0):
            raise UserError(f"extent={self.extent:g} (--range): give a number above 0, such as 0.5")
        if self.adaptive is not None and not 0 <= self.adaptive < 1:
            raise UserError(
                f"adaptive={self.adaptive:g} (--adaptive): give a part of the relief below 1, such as 0.01, or 0"
            )
        require_distinct(directions=self.directions)

    def probes(self, cell: Cell) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
        span = (-self.extent, self.extent, self.grid)
        perturbed = {"radii": self.radii, "draws": self.draws, "seed": 0}
        found = super().probes(cell)
        found["perturbation"] = (random_perturbation, perturbed)
        for name, seed in self.named("line").items():
            found[name] = (line, {"x": (*span[:2], 2 * self.grid - 1), "seed": seed})
        if cell.shown:
            for name, seed in self.named("plane").items():
                found[name] = (plane, {"x": span, "y": span, "adaptive": self.adaptive, "seed": seed})
            found["spectrum"] = (head_and_tail, {"coordinates": self.coordinates})
        return found

    def named(self, probe: str) -> dict[str, int]:
        """Return the seeds of a landscape's directions by the names of the result files, ``line``, ``line-1``, ..."""
        return {f"{probe}-{seed}" if seed else probe: seed for seed in self.directions}


@dataclass(frozen=True)
class Picture:
    """A picture with its numbers and the contents of its caption.

    Attributes:
        name: name of the files.
        figure: the picture.
        numbers: the numbers in the picture; None if another picture has the same numbers.
        what: description of the picture for the caption.
        results: results whose models, images and errors the caption describes.
        split: split of the images.
        errors: description of the errors, if they are not those of the results.
    """

    name: str
    figure: Figure
    numbers: pd.DataFrame | None
    what: str
    results: Comparison[Any]
    split: str
    errors: str | None = None

    def save(self, folder: Path) -> list[Path]:
        """Write the picture, its caption and its numbers, and return their paths."""
        path = folder / self.name
        told = caption(self.what, self.results, self.split) | ({"Errors": self.errors} if self.errors else {})
        files = [*save_figure(self.figure, path), write_caption(path, told)]
        return files if self.numbers is None else [*files, write_csv(self.numbers, picture_file(path, ".csv"))]


def pictures(
    results: Mapping[str, Comparison[Any]], cells: Sequence[Cell], data: LongTailData, settings: FigureSettings
) -> Iterator[Picture]:
    """Yield the pictures that can be drawn from the given results.

    Args:
        results: results of the probes of :meth:`FigureSettings.probes`, by name.
        cells: the probed trainings, which record their accuracy on test images.
        data: training and test set.
        settings: settings of the study.
    """
    moved = results["perturbation"]
    # A class without images of this split has no values to draw.
    probed = [c for c, n in enumerate(first_of(moved).class_samples) if n]
    tail = min(probed, key=lambda c: (data.train_counts[c], -c))
    rare = f"all classes, and the rarest, {data.class_names[tail]}"

    def picture(name: str, figure: Figure, numbers: pd.DataFrame | None, what: str, shown: Comparison[Any]) -> Picture:
        return Picture(name, figure, numbers, what, shown, settings.split)

    columns = [str(subset) for subset in columns_of(first_of(moved), tail) if isinstance(subset, str)]
    what = f"Loss under random perturbation of all classes and of {', '.join(columns) or data.class_names[tail]}"
    yield picture("motivation", draw_motivation(moved, tail), moved.to_frame(), what, moved)
    if tables := results.get("measures"):
        what = f"Measures of every class: {', '.join(settings.measures)}"
        yield picture("measure", tables.plot(measure="all")[0].figure, tables.to_frame(), what, tables)
        if set(ENDS) <= set(settings.measures):
            ends = tables.to_frame().filter(regex="^(model|run|class|group|samples|lambda_.*)$")
            what = "Largest and most negative Hessian eigenvalue of every class"
            yield picture("eigenvalues", draw_curvature(tables, data.train_counts), ends, what, tables)
        found = correlate(tables, tested(cells, data, settings))
        what = "Accuracy on test images against every measure, a dot for each class of each training"
        drawn = picture("correlation", found.plot("classes")[0, 0].figure, found.to_frame(), what, tables)
        yield replace(drawn, errors=found.caption("classes")["Errors"])
    if spectra := results.get("spectrum"):
        what = "Spectral density of the Hessian of the most frequent and of the rarest class"
        yield picture("spectra", draw_spectra(spectra, data.train_counts), spectra.to_frame(), what, spectra)
    lines, planes = (
        {seed: results[name] for name, seed in settings.named(probe).items() if name in results}
        for probe in ("line", "plane")
    )
    first = next(iter(lines.values()))
    what = f"Rise of the loss along random directions ({numbered(lines)}): {rare}"
    yield picture("visualization_lines", draw_lines(lines, tail), numbers_of(lines), what, first)
    if planes:
        first = next(iter(planes.values()))
        what = f"Rise of the loss over planes of two random directions ({numbered(planes)}): {rare}"
        numbers = drawn_numbers(planes, tail)
        yield picture("visualization_contours", draw_planes(planes, tail, "filled"), numbers, what, first)
        # The numbers are the same as those of the contours.
        yield picture("visualization_surfaces", draw_planes(planes, tail, "surface"), None, what, first)


def numbered(seeds: Iterable[int]) -> str:
    """Name seeds in words.

    >>> numbered([0]), numbered([0, 1])
    ('seed 0', 'seeds 0, 1')
    """
    numbers = [str(seed) for seed in seeds]
    return f"seed{'s' * (len(numbers) > 1)} {', '.join(numbers)}"


def numbers_of(lines: Mapping[int, Comparison[Any]]) -> pd.DataFrame:
    """Concatenate the tables of lines; a column names the seed of the directions if there are several."""
    frames = [one.to_frame() for one in lines.values()]
    if len(lines) > 1:
        for seed, frame in zip(lines, frames, strict=True):
            frame.insert(0, "directions", seed)
    return pd.concat(frames, ignore_index=True)


def tested(cells: Sequence[Cell], data: LongTailData, settings: Settings) -> pd.DataFrame:
    """Return the recorded test accuracy of every training, in the format of a table of :func:`sharpness.measure`."""
    found = []
    for cell in cells:
        known = load_checkpoint(cell.checkpoint or folder_of(cell, data, settings)).manifest.accuracy
        parts = [("all", "", "accuracy"), *((group, group, f"accuracy_{group}") for group in data.groups)]
        parts += [(name, data.longtail.group_of(c), f"accuracy_class_{c}") for c, name in enumerate(data.class_names)]
        key = {"model": cell.row, "run": f"seed {cell.seed}"}
        found += [{**key, "class": c, "group": g, "accuracy": known.get(name)} for c, g, name in parts]
    return pd.DataFrame(found)
