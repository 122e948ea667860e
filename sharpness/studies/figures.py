"""All figures of the talk for a list of methods: train every method with several seeds, probe and draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from textwrap import fill
from typing import Any, cast

import pandas as pd

from sharpness.data import LongTailData
from sharpness.errors import UserError
from sharpness.files import write_atomically, write_csv
from sharpness.methods import METHODS as ALL_METHODS, Recipe, build_recipe
from sharpness.probes import labelled_checkpoints
from sharpness.results import Comparison, Result, Runs, load_result
from sharpness.studies.cells import Cell, result_file
from sharpness.studies.pictures import FigureSettings, numbered, pictures
from sharpness.studies.run import run_cells
from sharpness.studies.seeds import failures, over_seeds, told_apart
from sharpness.studies.settings import Settings, StudyOptions, measure_of, require_distinct, settings_of
from sharpness.studies.summary import note_on, part_text, to_markdown

METHODS = ("ce", "ldam-drw", "mislas", "gcl", "cc-sam")
#: Significance level of the tests for differences.
LEVEL = 0.05
ONE_SEED = (
    "One training each, with {seeds}; ± standard error over images or draws. What another seed would change is "
    "not known."
)
SPREAD = (
    "Means ± standard deviations over {number} trainings ({seeds}); in brackets the standard error of one "
    "training, over images or draws."
)
UNTESTED = "No pair of methods has a spread on both sides to be tested by: which of them differ is not known.\n"
DIFFERENCES = (
    "Which methods differ by more than the spread over training explains (Welch's t-test over seeds, of sharpness of "
    "one sign on logarithms, p < {level:g}): {apart} of {tested} pairs, of which about {chance:.0f} would by chance. "
    "All others are within the spread{untested}."
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


def make_figures(
    data: LongTailData,
    methods: Sequence[str] = METHODS,
    seeds: Sequence[int] = (0, 1, 2),
    out: str | Path = "out",
    runs: str | Path = "runs",
    **options: Any,
) -> Figures:
    """Draw motivation, per-class curvature, visualization and summary for a list of methods on a data set.

    Every method is trained with every seed. Tables and pictures show mean and spread over seeds; contours, surfaces and
    spectra show the first seed. All models are perturbed along the same random directions. Every picture is saved as a
    PDF and a PNG, with its numbers as CSV. Existing runs and results of their probes are reused, so an interrupted call
    can be continued. A run that diverges is reported and left out.

    Args:
        data: training and test set.
        methods: names of methods.
        seeds: seeds of the trainings.
        out: folder of tables and pictures.
        runs: folder of the runs, ``RUNS/METHOD/seed-N``.
        options: see :class:`~sharpness.studies.settings.StudyOptions`; for the settings of landscapes, such as
            ``grid=21``, see :class:`~sharpness.studies.pictures.FigureSettings`.

    Raises:
        UserError: an empty list, a repeated entry, an unknown method, or no run that could be probed.
    """
    require_distinct(methods=methods, seeds=seeds)
    cells = [
        Cell(method, seed=seed, row=ALL_METHODS.label(method), path=f"{method}/seed-{seed}", shown=seed == seeds[0])
        for seed in seeds
        for method in methods
    ]
    if options.get("loss") == "training":
        require_one_loss({cell.row: build_recipe(cell.method, data.longtail) for cell in cells})
    return _figures(cells, data, runs, options, Path(out))


def figures_of(
    checkpoints: Sequence[str | Path],
    out: str | Path = "out",
    results: str | Path = "runs/checkpoints",
    *,
    data_root: str | None = None,
    download: bool = False,
    **options: Any,
) -> Figures:
    """Draw the figures of :func:`make_figures` for trained models, such as ``["zoo:"]``, on the data that they record.

    Args:
        checkpoints: files, or folders of files; files that only differ in their seed are trainings of one model.
        out: folder of tables and pictures.
        results: folder of the results of probes; an interrupted call continues from them.
        data_root, download: location of the recorded data, see :func:`sharpness.load_data`.
        options: options of :func:`make_figures`, except those of training.

    Raises:
        UserError: a file that does not record its training set, models with different training sets or augmentations,
            or no model that could be probed.
    """
    cells, known = [], []
    for label, entry in labelled_checkpoints(checkpoints).items():
        for number, one in enumerate(entry if isinstance(entry, list) else [entry]):
            method, seed = one.manifest.method or label, one.manifest.seed or 0
            path = f"{method}-{one.sha256[:12]}"
            cells.append(Cell(method, seed=seed, row=label, path=path, checkpoint=one.path, shown=number == 0))
            known.append(one)
    first = known[0]
    data = first.load_data(data_root, download, options.get("split", "train"))
    # With several training sets, a class or an image would not have the same role for all models.
    for one in known[1:]:
        if (one.longtail, one.manifest.data_sha256) != (first.longtail, first.manifest.data_sha256):
            raise UserError(f"{first.path} and {one.path} were trained on different images: draw them apart")
    augmentations = {one.manifest.training.get("augmentation") for one in known}
    if len(augmentations) > 1:
        names = " and ".join(sorted(str(name or "the usual one") for name in augmentations))
        raise UserError(f"models trained with different augmentations ({names}) are not compared: draw them apart")
    if options.get("loss") == "training":
        recorded = {one.label: one.manifest for one in known if one.manifest.method in ALL_METHODS}
        require_one_loss(
            {k: build_recipe(m.method or "", data.longtail, **(m.options or {})) for k, m in recorded.items()}
        )
    return _figures(cells, data, results, {**options, "augmentation": augmentations.pop()}, Path(out))


def require_one_loss(recipes: Mapping[str, Recipe]) -> None:
    """Raise a :class:`UserError`, before anything is trained, if recipes end with different training losses.

    Values of different losses are in different units, and their class weights differ.
    """
    losses = {label: recipe.stages[-1].loss.deterministic() for label, recipe in recipes.items()}
    first, *others = losses
    for other in others:
        if losses[other] != losses[first]:
            raise UserError(
                f"{first} and {other} end with different training losses ({losses[first]!r}, {losses[other]!r}), which "
                "cannot share a picture: take loss='ce', or draw them apart"
            )


def _figures(
    cells: Sequence[Cell], data: LongTailData, folder: str | Path, options: dict[str, Any], out: Path
) -> Figures:
    """Train and probe cells as far as results are missing, then draw and tabulate."""
    landscapes = {field.name for field in fields(FigureSettings)} - {field.name for field in fields(Settings)}
    own = {name: value for name, value in options.items() if name in landscapes}
    own |= {name: tuple(own[name]) for name in ("radii", "directions") if name in own}
    others = cast("StudyOptions", {name: value for name, value in options.items() if name not in landscapes})
    data, settings, making = settings_of(data, folder, others, FigureSettings, **own)
    rows = run_cells("figures", cells, data, settings, making)
    if making.part:
        return Figures(rows, pd.DataFrame(), part_text(rows, making.part), [])
    done = [cell for cell, status in zip(cells, rows.status, strict=True) if status == "done"]
    if not done:
        raise UserError(f"no run could be probed: {'; '.join(failures(rows))}")
    names = dict.fromkeys(name for cell in done for name in settings.probes(cell))
    results = {name: _results(name, done, data, settings) for name in names}
    files: list[Path] = []
    for picture in pictures(results, done, data, settings):
        files += picture.save(out)
    summary = over_seeds(rows)
    text = summary_text(rows, summary, note_on(settings, data.augmentation))
    files += [write_csv(rows, out / "runs.csv"), write_csv(table_of_methods(summary), out / "summary.csv")]
    write_atomically(out / "summary.md", lambda partial: partial.write_text(text, encoding="utf-8"))
    return Figures(rows, summary, text, [*files, out / "summary.md"])


def _results(name: str, cells: Sequence[Cell], data: LongTailData, settings: Settings) -> Comparison[Any]:
    """Return the results of a probe by method and seed, for the cells that have the probe."""
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
    """Return a table of methods with the mean, standard deviation and standard error of every measure, if known."""
    table = summary.rename(columns={"row": "method"}).drop(columns=["column", "seeds", "asked"])
    return table.dropna(axis="columns", how="all")


def summary_text(cells: pd.DataFrame, summary: pd.DataFrame, note: str) -> str:
    """Return the summary as Markdown: table, explanations, and methods that differ beyond the spread over seeds."""
    # By method, because checkpoints of different methods may differ in their seeds.
    trainings = cells.groupby("row").seed.nunique()
    least, most = trainings.min(), trainings.max()
    several = most > 1
    number = f"{most}" if least == most else f"{least} to {most}"
    note += " " + (SPREAD if several else ONE_SEED).format(number=number, seeds=numbered(sorted(set(cells.seed))))
    table = table_of_methods(summary)
    parts = [to_markdown(table, "sd", "se") if several else to_markdown(table, "se"), fill(note, 120) + "\n"]
    if several and summary.row.nunique() > 1:
        parts.append(difference_text(told_apart(cells)))
    if lost := failures(cells):
        parts.append("Left out:\n\n" + "".join(f"- {line}\n" for line in lost))
    return "\n".join(parts)


def difference_text(pairs: pd.DataFrame) -> str:
    """List the pairs of methods that differ beyond the spread over seeds, by measure."""
    tested = int(pairs.p.notna().sum())
    if not tested:
        return UNTESTED
    summary = DIFFERENCES.format(
        level=LEVEL, apart=int(pairs.apart.sum()), tested=tested, chance=LEVEL * tested,
        untested=f", except {n} pairs that have none" if (n := len(pairs) - tested) else "",
    )  # fmt: skip
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
