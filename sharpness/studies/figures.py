"""All figures of the talk for a list of methods: train what is missing, several seeds a method, probe, draw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any, Unpack

import pandas as pd
from matplotlib.figure import Figure

from sharpness.data import LongTailData
from sharpness.errors import UserError
from sharpness.files import write_atomically, write_csv
from sharpness.methods import METHODS as ALL_METHODS
from sharpness.plots import save_figure
from sharpness.probes import line, plane, random_perturbation
from sharpness.probes.perturbations.random import RADII
from sharpness.results import Comparison, Result, Runs, load_result
from sharpness.results.caption import caption, write_caption
from sharpness.studies.cells import Cell, result_file
from sharpness.studies.curvature import ENDS, draw_curvature
from sharpness.studies.motivation import draw_motivation
from sharpness.studies.seeds import failures, over_seeds, told_apart
from sharpness.studies.settings import Settings, StudyOptions, measure_of, settings_of
from sharpness.studies.summary import note_on, to_markdown
from sharpness.studies.visualization import draw_lines, draw_planes, drawn_numbers
from sharpness.studies.workers import run_cells

METHODS = ("ce", "ldam-drw", "mislas", "gcl", "cc-sam")
ONE_SEED = (
    "One training each, with seed {seeds}; ± standard error over images or draws. What another seed would change is "
    "not known."
)
SPREAD = (
    "Means ± standard deviations over {number} trainings (seeds {seeds}); in brackets the standard error of one "
    "training, over images or draws."
)
DIFFERENCES = (
    "Which methods differ by more than the spread over training explains (Welch's t-test over seeds, of sharpness of "
    "one sign on logarithms, p < {level:g}): {apart} of {tested} pairs, of which about {chance:.0f} would by chance. "
    "All others are within the spread."
)


@dataclass(frozen=True)
class Figures:
    """The files of the figures, and the summary.

    Attributes:
        cells: one row per training.
        summary: one row per method, see ``over_seeds``.
        text: the summary as Markdown, with explanations, and the differences that exceed the spread over seeds.
        files: paths of all files.
    """

    cells: pd.DataFrame
    summary: pd.DataFrame
    text: str
    files: list[Path]


@dataclass(frozen=True)
class FigureSettings(Settings):
    """Those of a study, and of its landscapes.

    Args:
        radii: of random perturbations.
        grid: points along each side of the plane; the line has twice as many.
        extent: half the length of line and plane, in filter norms.
        adaptive: part of the relief to which planes are interpolated; every point is evaluated if None.
        shown: the seed whose planes are drawn.
    """

    radii: tuple[float, ...] = RADII
    grid: int = 51
    extent: float = 0.5
    adaptive: float | None = 0.01
    shown: int = 0

    def probes(self, cell: Cell) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
        span = (-self.extent, self.extent, self.grid)
        perturbed = {"radii": self.radii, "draws": self.draws, "seed": 0}
        found = super().probes(cell)
        found["perturbation"] = (random_perturbation, perturbed)
        found["line"] = (line, {"x": (*span[:2], 2 * self.grid - 1), "seed": 0})
        if cell.seed == self.shown:
            found["plane"] = (plane, {"x": span, "y": span, "adaptive": self.adaptive, "seed": 0})
        return found


def make_figures(
    data: LongTailData,
    methods: Sequence[str] = METHODS,
    seeds: Sequence[int] = (0, 1, 2),
    out: str | Path = "out",
    runs: str | Path = "runs",
    *,
    grid: int = 51,
    extent: float = 0.5,
    adaptive: float | None = 0.01,
    radii: Sequence[float] = RADII,
    **options: Unpack[StudyOptions],
) -> Figures:
    """Motivation, per-class curvature, visualization and summary for a list of methods on a data set.

    Every method is trained with every seed; tables and pictures show mean and spread over seeds, contours and surfaces
    the first seed. All models are moved in the same random directions. Every picture is a PDF and a PNG, with the
    numbers behind it beside it as CSV. Runs that exist already, and the results of their probes in them, are reused, so
    that an interrupted call continues; a run that diverges is reported and left out.

    Args:
        out: folder of tables and pictures.
        runs: folder of the runs, ``RUNS/METHOD/seed-N``.
        grid, extent, adaptive: of the landscapes, see :class:`FigureSettings`.
        radii: of random perturbations.
        options: see :class:`~sharpness.studies.settings.StudyOptions`.

    Raises:
        UserError: nothing or something twice in a list, an unknown method, or no run that could be probed.
    """
    for what, given in (("methods", methods), ("seeds", seeds)):
        if len(set(given)) < len(given) or not given:
            raise UserError(f"{what} {','.join(map(str, given))!r}: name at least one, and each only once")
    own = {"radii": tuple(radii), "grid": grid, "extent": extent, "adaptive": adaptive, "shown": seeds[0]}
    data, settings, jobs = settings_of(data, runs, options, FigureSettings, **own)
    grid_of_runs = [
        Cell(method, seed=seed, row=ALL_METHODS.label(method), path=f"{method}/seed-{seed}")
        for seed in seeds
        for method in methods
    ]
    cells = run_cells("figures", grid_of_runs, data, settings, jobs)
    done = [cell for cell, status in zip(grid_of_runs, cells.status, strict=True) if status == "done"]
    if not done:
        raise UserError(f"no run could be probed: {'; '.join(failures(cells))}")
    tables, perturbations, lines, planes = (
        _results(name, done, data, settings) for name in ("measures", "perturbation", "line", "plane")
    )
    tail = data.longtail.tail_class
    pictures: dict[str, tuple[Figure, pd.DataFrame | None]] = {
        "motivation": (draw_motivation(perturbations, tail), perturbations.to_frame()),
        "visualization_lines": (draw_lines(lines, tail), lines.to_frame()),
    }
    if tables:
        pictures["measure"] = (tables.plot(measure="all")[0].figure, tables.to_frame())
    if set(ENDS) <= set(settings.measures):
        ends = tables.to_frame().filter(regex="^(model|run|class|group|samples|lambda_.*)$")
        pictures["eigenvalues"] = (draw_curvature(tables, data.train_counts), ends)
    if planes:
        pictures |= {
            "visualization_contours": (draw_planes(planes, tail, "filled"), drawn_numbers(planes, tail)),
            "visualization_surfaces": (draw_planes(planes, tail, "surface"), None),  # those of the contours
        }
    rare = f"all classes, and the rarest, {data.class_names[tail]}"
    captions = {
        "motivation": (f"Loss under random perturbation of {rare} or few-shot classes", perturbations),
        "eigenvalues": ("Largest and most negative Hessian eigenvalue of every class", tables),
        "measure": (f"Measures of every class: {', '.join(settings.measures)}", tables),
        "visualization_lines": (f"Rise of the loss along one random direction: {rare}", lines),
        "visualization_contours": (f"Rise of the loss over a plane: {rare}; seed {settings.shown}", planes),
        "visualization_surfaces": (f"Rise of the loss over a plane: {rare}; seed {settings.shown}", planes),
    }
    out, files = Path(out), []
    for name, (figure, numbers) in pictures.items():
        files += [*save_figure(figure, out / name), write_caption(out / name, caption(*captions[name], settings.split))]
        if numbers is not None:
            files.append(write_csv(numbers, out / f"{name}.csv"))
    summary = over_seeds(cells)
    text = summary_text(cells, summary, note_on(settings, data.augmentation))
    files += [write_csv(cells, out / "runs.csv"), write_csv(table_of_methods(summary), out / "summary.csv")]
    write_atomically(out / "summary.md", lambda partial: partial.write_text(text, encoding="utf-8"))
    return Figures(cells, summary, text, [*files, out / "summary.md"])


def _results(name: str, cells: Sequence[Cell], data: LongTailData, settings: Settings) -> Comparison[Any]:
    """The results of a probe by method and seed, of the cells that have it."""
    found: dict[str, list[tuple[str, Any]]] = {}
    for cell in cells:
        if name in settings.probes(cell):
            result = load_result(result_file(cell, data, settings, name), Result)
            result.provenance.update(label=cell.row, run=f"seed {cell.seed}")
            found.setdefault(cell.row, []).append((f"seed {cell.seed}", result))
    results: Comparison[Any] = Comparison()
    for label, of_label in found.items():
        names, members = zip(*of_label, strict=True)
        results[label] = Runs(members, names)
    return results


def table_of_methods(summary: pd.DataFrame) -> pd.DataFrame:
    """Method, and of every measure mean, standard deviation over seeds and standard error over draws, if there are."""
    table = summary.rename(columns={"row": "method"}).drop(columns=["column", "seeds", "asked"])
    return table.dropna(axis="columns", how="all")


def summary_text(cells: pd.DataFrame, summary: pd.DataFrame, note: str) -> str:
    """The summary as Markdown: table, explanations, and methods that differ beyond the spread over seeds."""
    seeds = sorted(set(cells.seed))
    several = len(seeds) > 1
    note += " " + (SPREAD if several else ONE_SEED).format(number=len(seeds), seeds=", ".join(map(str, seeds)))
    table = table_of_methods(summary)
    parts = [to_markdown(table, "sd", "se") if several else to_markdown(table, "se"), fill(note, 120) + "\n"]
    if several and summary.row.nunique() > 1:
        parts.append(difference_text(told_apart(cells)))
    if lost := failures(cells):
        parts.append("Left out:\n\n" + "".join(f"- {line}\n" for line in lost))
    return "\n".join(parts)


def difference_text(pairs: pd.DataFrame, level: float = 0.05) -> str:
    """The pairs that differ beyond the spread over seeds, measure by measure."""
    tested = int(pairs.p.notna().sum())
    summary = DIFFERENCES.format(level=level, apart=int(pairs.apart.sum()), tested=tested, chance=level * tested)
    lines, none = [], []
    directions = {True: " (less is flatter)", False: " (more is flatter)", None: ""}
    for measure, part in pairs.groupby("measure", sort=False):
        apart = part[part.apart]
        found = ", ".join(f"{high} > {low}" for high, low in zip(apart.higher, apart.lower, strict=True))
        if found:
            lines.append(f"- {measure}{directions[measure_of(measure).lower_is_flatter]}: {found}\n")
        else:
            none.append(str(measure))
    if none:
        lines.append(f"- no pair: {', '.join(none)}\n")
    return fill(summary, 120) + "\n\n" + "".join(lines)
