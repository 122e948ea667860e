"""Studies of a grid of cells: files, tables and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sharpness.data import LongTailData
from sharpness.errors import UserError
from sharpness.files import write_atomically, write_csv
from sharpness.plots import COLUMN, PAGE, DotColumn, figure_of, plot_dots, save_figure
from sharpness.plots.options import COMMON, looks_of
from sharpness.results.caption import write_caption
from sharpness.studies.cells import Cell
from sharpness.studies.run import run_cells
from sharpness.studies.seeds import changes, failures, over_seeds, table_of
from sharpness.studies.settings import ACCURACIES, ACCURACY, Settings, StudyOptions, measure_of, settings_of
from sharpness.studies.summary import note_on, part_text, to_markdown

#: Default epochs of the first stage, with which 60 cells take about ten minutes; other data have the published number.
EPOCHS = {"digits-lt": 40}
NOTE = """\
Means ± standard deviations over seeds; a dash: no value.

The figure shows changes against {reference} with the same seed: differences of accuracy and ratios of sharpness, means
± one standard deviation."""
#: Maximum number of panels in a column.
HEIGHT = 4
#: Label of an axis of ratios, by whether a smaller value means a flatter model; None if this is mixed or undefined.
RATIOS = {True: "Ratio (left is flatter)", False: "Ratio (right is flatter)", None: "Ratio"}


@dataclass(frozen=True)
class Plan:
    """The cells of a study and their reference.

    Attributes:
        name: name of the study and its files.
        cells: cells of the study.
        axes: names of rows and columns, such as ``("method", "operation")``.
        reference: column of the reference cells, and their row if all cells have the same reference. Cells of one seed
            are compared, because they share initialisation and order of the images.
        compared_with: the reference in words.
    """

    name: str
    cells: Sequence[Cell]
    axes: tuple[str, str]
    reference: tuple[str, ...]
    compared_with: str


@dataclass(frozen=True)
class Study:
    """The tables and files of a study.

    Attributes:
        cells: one row per cell.
        summary: one row for each row and column of the grid, see ``over_seeds``.
        text: the summary as Markdown, with explanations and the reasons of failed cells.
        files: paths of all files.
        numbers: numbers of the picture, from ``changes``.
    """

    cells: pd.DataFrame
    summary: pd.DataFrame
    text: str
    files: list[Path]
    numbers: pd.DataFrame

    def plot(self, **options: Any) -> Figure:
        """Draw the picture of the study again.

        Args:
            options: options of all pictures, see :class:`~sharpness.plots.PlotOptions`; ``order`` and ``labels`` refer
                to rows, and ``ax`` and ``log`` do not apply.

        Raises:
            UserError: an unknown option, a value out of range, or a row that the study does not have.
        """
        known = [name for name in COMMON if name not in ("ax", "log")]
        if unknown := options.keys() - set(known):
            raise UserError(f"plot has no option {min(unknown)!r}: it takes {', '.join(known)}")
        looks, shown = looks_of(options, list(dict.fromkeys(self.numbers["row"])), "row")
        numbers = pd.concat([self.numbers[self.numbers["row"] == name].assign(row=to) for name, to in shown.items()])
        with looks.in_force():
            figure = draw_grid(numbers)
        if looks.title:
            figure.suptitle(looks.title, fontsize=8)
        return figure


def panels(numbers: pd.DataFrame, titles: Mapping[str, str], rows: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    """Return the input of ``plot_dots``: ``{title: {column of the study: (3, R)}}``."""
    found = {}
    for measure, title in titles.items():
        of_measure = numbers[numbers.measure == measure]
        found[title] = {
            str(column): part.set_index("row").loc[list(rows), ["value", "low", "high"]].to_numpy().T
            for column, part in of_measure.groupby("column", sort=False)
        }
    return found


def draw_grid(numbers: pd.DataFrame) -> Figure:
    """Draw the result of ``changes``: changes of accuracy on the left, ratios of measures on the right."""
    rows = list(dict.fromkeys(numbers.row))
    accuracy = {name: name.removeprefix(ACCURACY).strip().capitalize() or "All" for name in ACCURACIES}
    columns = [DotColumn("Accuracy change (points)", panels(numbers, accuracy, rows), 0)]
    ratios = [str(m) for m in dict.fromkeys(numbers.measure) if m not in ACCURACIES and measure_of(m).ratio]
    # Numbers of earlier versions do not record their coordinates.
    known = numbers.get("coordinates", pd.Series("", numbers.index)).astype(object).fillna("")
    within = {m: f" ({found} coordinates)" if (found := known[numbers.measure == m].iloc[0]) else "" for m in ratios}
    for first in range(0, len(ratios), HEIGHT):
        shown = ratios[first : first + HEIGHT]
        directions = {measure_of(m).lower_is_flatter for m in shown}
        titles = {m: f"{measure_of(m).label}{within[m]}, {'tail' if m.endswith(' tail') else 'all'}" for m in shown}
        label = RATIOS[directions.pop() if len(directions) == 1 else None]
        columns.append(DotColumn(label, panels(numbers, titles, rows), 1, log=True))
    return figure_of(plot_dots(columns, rows, COLUMN if len(columns) < 3 else PAGE))


def make_study(plan: Plan, data: LongTailData, out: str | Path, runs: str | Path, options: StudyOptions) -> Study:
    """Train and probe a study as far as results are missing; write its cells, drawn numbers, summary and picture.

    Raises:
        UserError: a recipe that cannot be built, or a folder that holds another run.
    """
    usual = {**options, "epochs": EPOCHS.get(data.longtail.dataset)} if options.get("epochs") is None else options
    data, settings, making = settings_of(data, runs, usual, Settings)
    out, cells = Path(out), run_cells(plan.name, plan.cells, data, settings, making)
    if making.part:  # the picture needs all cells
        return Study(cells, pd.DataFrame(), part_text(cells, making.part), [], pd.DataFrame())
    numbers = changes(cells, *plan.reference)
    bends = ["coordinates" in measure_of(m).setting_names if m not in ACCURACIES else False for m in numbers.measure]
    numbers = numbers.assign(coordinates=np.where(bends, settings.coordinates, ""))
    summary = over_seeds(cells)
    table = table_of(summary, plan.axes)
    # A diverged run is a result: the table shows dashes, and the text below it states the reason.
    lost, note = failures(cells), note_on(settings, data.augmentation)
    told = fill(note, 120) + "\n" + NOTE.format(reference=plan.compared_with)
    text = to_markdown(table, "sd") + f"\n{told}\n" + "".join(f"\n- {line}" for line in lost) + ("\n" if lost else "")
    caption = {
        "Shows": f"changes against {plan.compared_with} with the same seed: differences of accuracy and ratios of "
        "sharpness",
        "Numbers": note,
        "Seeds": ", ".join(map(str, sorted(set(cells.seed)))),
        "Errors": "bars are one standard deviation over seeds",
    }
    files = [
        *save_figure(draw_grid(numbers), out / plan.name),
        write_caption(out / plan.name, caption),
        write_csv(cells, out / f"{plan.name}_cells.csv"),
        write_csv(numbers, out / f"{plan.name}.csv"),
        write_csv(table, out / f"{plan.name}_summary.csv"),
        out / f"{plan.name}_summary.md",
    ]
    write_atomically(files[-1], lambda partial: partial.write_text(text, encoding="utf-8"))
    return Study(cells, summary, text, files, numbers)
