"""Execution of the cells of a study, in this process or as tasks of an executor."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from sharpness.clusters import Parcel, Processes, do_all, parcelled, require_executor, width
from sharpness.data import LongTailData
from sharpness.engine.devices import resolve_device
from sharpness.errors import UserError
from sharpness.models import BACKBONES
from sharpness.progress import progress
from sharpness.registry import registered, take_over
from sharpness.studies.cells import Cell, check_cells, is_done, run_cell
from sharpness.studies.settings import Making, Settings

logger = logging.getLogger("sharpness")


def run_cells(
    name: str, cells: Sequence[Cell], data: LongTailData, settings: Settings, making: Making | None = None
) -> pd.DataFrame:
    """Train and probe all cells as far as results are missing; return one row per cell, in the order of the cells.

    The plan is logged first, and an estimate of the remaining time after the first cell. Cells that were finished
    before an interruption are read from their files.

    Args:
        name: name of the study, for messages.
        cells: cells of the study.
        data: training and test set.
        settings: settings of the study.
        making: place of execution, and the part of the cells to execute.

    Raises:
        UserError: a recipe that cannot be built (before anything is trained), or a folder that holds another run.
    """
    making = making or Making()
    jobs = making.jobs
    if jobs is None:
        gpu = resolve_device(settings.training.get("device")).type != "cpu"
        jobs = 1 if gpu else min(4, os.cpu_count() or 1, len(cells))
    if jobs < 1:
        raise UserError(f"jobs={jobs}: give at least 1")
    if making.executor is not None:
        require_executor(making.executor)
    # All cells are checked, including those of other calls, so that an error in any cell is found before training.
    check_cells(cells, data)
    cells = making.chosen(cells)
    # A callable is replaced by its registered name, which rows, folders and workers use.
    if callable(model := settings.training.get("model")):
        settings = replace(settings, training={**settings.training, "model": BACKBONES.admit(model)})
    done = [is_done(cell, data, settings) for cell in cells]
    left = len(cells) - sum(done)
    logger.info("%s on %s: %d cells, %d done, %d to do", name, data.longtail.dataset, len(cells), sum(done), left)
    if left:
        probes = dict.fromkeys(probe for cell in cells for probe in settings.probes(cell))
        few = "" if settings.limit_per_class is None else f", {settings.limit_per_class} of every class at most"
        logger.info(
            "each probed for %s on %s images%s; kept in %s", ", ".join(probes), settings.split, few, settings.runs
        )
    # Indexed, because cells finish in any order and the table has their original order.
    rows: dict[int, dict[str, Any]] = {}
    start, made = time.monotonic(), 0
    several = making.executor is not None or jobs > 1
    # Objects that the user registered are only known in this process.
    known = registered(_needed(cells, settings)) if several else {}
    own = making.executor is None and several
    with (
        Processes(jobs) if own else nullcontext(making.executor) as executor,
        progress(len(cells), name, "cells") as bar,
    ):
        at_a_time = 1 if executor is None else width(executor)
        for index, row in _rows(cells, data, settings, executor, known):
            rows[index] = row
            bar.update()
            made += not done[index]  # reading finished cells takes no time, so they do not count for the estimate
            if made == 1 and not done[index] and left > 1:
                minutes = (time.monotonic() - start) * (left - 1) / min(at_a_time, left) / 60
                logger.info("%s: about %.2g minutes for the other %d", name, minutes, left - 1)
    return pd.DataFrame([rows[index] for index in range(len(cells))])


def _rows(
    cells: Sequence[Cell], data: LongTailData, settings: Settings, executor: Executor | None, known: dict[str, Any]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield indices and rows of cells in the order in which they finish."""
    if executor is None:
        for index, cell in enumerate(cells):
            yield index, run_cell(cell, data, settings)
        return
    # The parcel is stored in the folder of the runs, to which all workers have access.
    with parcelled((data, settings, known), settings.runs) as parcel:
        yield from do_all(executor, {index: SentCell(parcel, cell) for index, cell in enumerate(cells)})


def _needed(cells: Sequence[Cell], settings: Settings) -> set[str]:
    """Return the names of registered objects that workers need."""
    operations = {cell.operation.partition(":")[0] for cell in cells}
    return {cell.method for cell in cells} | operations | {settings.training.get("model") or "", *settings.measures}


@dataclass(frozen=True)
class SentCell:
    """A cell for another process, whose run and results are stored in files."""

    parcel: Parcel
    cell: Cell

    def __call__(self) -> dict[str, Any]:
        data, settings, known = self.parcel.open()
        take_over(known)
        return run_cell(self.cell, data, settings)
