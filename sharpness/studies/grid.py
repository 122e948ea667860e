"""What the studies of a grid of cells have in common: their files, their tables and their picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sharpness.data import LongTailData, augmentation_label
from sharpness.files import write_atomically, write_csv
from sharpness.plots import DotColumn, plot_dots, save_figure
from sharpness.studies.cells import Settings
from sharpness.studies.motivation import RADII
from sharpness.studies.seeds import failures, over_seeds, table_of
from sharpness.studies.summary import to_markdown

#: Epochs of the first stage with which 60 cells take about ten minutes; the published ones for other data.
EPOCHS = {"digits-lt": 40}
#: Panels of accuracy and of sharpness: measure and title.
ACCURACY_PANELS = {"acc": "All", "acc many": "Many", "acc medium": "Medium", "acc few": "Few"}
SHARPNESS_PANELS = {
    "λmax": r"$\lambda_\mathrm{max}$, all",
    "λmax tail": r"$\lambda_\mathrm{max}$, tail",
    "rise": "Mean rise, all",
    "rise tail": "Mean rise, tail",
}
NOTE = """\
Accuracy in % on the test set. Sharpness of {loss} on {split} images{limit}: extreme eigenvalues of its Hessian, its
mean rise under random perturbation at radius {radius:g}, and its rise after one ascent step; tail: mean of the few-shot
classes, or the rarest class where there are none. Means ± standard deviations over seeds; a dash: no value. Trained
with {augmentation}.

The figure shows changes against {reference} with the same seed: differences of accuracy and ratios of sharpness, means
± one standard deviation."""


@dataclass(frozen=True)
class Study:
    """A grid of cells, told.

    Attributes:
        cells: one row per cell.
        summary: one row per row and column of the grid, see :func:`sharpness.studies.seeds.over_seeds`.
        text: the summary as Markdown, with what the numbers are and which cells failed, and why.
        files: what was written.
    """

    cells: pd.DataFrame
    summary: pd.DataFrame
    text: str
    files: list[Path]


def default_epochs(data: LongTailData, epochs: int | None) -> int | None:
    """The epochs given, or :data:`EPOCHS` of the data; None means the published ones."""
    return EPOCHS.get(data.longtail.dataset) if epochs is None else epochs


def panels(numbers: pd.DataFrame, titles: Mapping[str, str], rows: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    """What :func:`sharpness.plots.plot_dots` draws: ``{title: {column of the study: (3, R)}}``."""
    found = {}
    for measure, title in titles.items():
        of_measure = numbers[numbers.measure == measure]
        found[title] = {
            str(column): part.set_index("row").loc[list(rows), ["value", "low", "high"]].to_numpy().T
            for column, part in of_measure.groupby("column", sort=False)
        }
    return found


def draw_grid(numbers: pd.DataFrame) -> Figure:
    """At the left changes of accuracy, at the right ratios of sharpness, from what ``changes`` gives."""
    rows = list(dict.fromkeys(numbers.row))
    accuracy, sharpness = (panels(numbers, titles, rows) for titles in (ACCURACY_PANELS, SHARPNESS_PANELS))
    axes = plot_dots(
        [DotColumn("Accuracy change (points)", accuracy, 0), DotColumn("Sharpness ratio", sharpness, 1, log=True)], rows
    )
    figure = axes[0].get_figure(root=True)
    assert figure is not None
    return figure


def write_study(
    out: Path,
    name: str,
    cells: pd.DataFrame,
    numbers: pd.DataFrame,
    names: tuple[str, str],
    reference: str,
    settings: Settings,
    augmentation: str,
) -> Study:
    """The files of a study: cells, what is drawn, the summary as CSV and Markdown, and the picture.

    Args:
        numbers: what is drawn, from :func:`sharpness.studies.seeds.changes`.
        names: what rows and columns are, such as ``("method", "operation")``.
        reference: what the cells are compared with, in words.
        augmentation: of all trainings.
    """
    summary = over_seeds(cells)
    table = table_of(summary, names)
    lost = failures(cells)
    limit = settings.limit_per_class
    note = NOTE.format(
        loss="cross-entropy" if settings.loss == "ce" else "the loss of training",
        split="training" if settings.split == "train" else "test",
        limit="" if limit is None else f", {limit} of every class at most",
        radius=RADII[-1],
        reference=reference,
        augmentation=augmentation_label(augmentation),
    )
    text = to_markdown(table, "sd") + f"\n{note}\n" + "".join(f"\n- {line}" for line in lost) + ("\n" if lost else "")
    files = [
        *save_figure(draw_grid(numbers), out / name),
        write_csv(cells, out / f"{name}_cells.csv"),
        write_csv(numbers, out / f"{name}.csv"),
        write_csv(table, out / f"{name}_summary.csv"),
        out / f"{name}_summary.md",
    ]
    write_atomically(files[-1], lambda partial: partial.write_text(text, encoding="utf-8"))
    return Study(cells, summary, text, files)
