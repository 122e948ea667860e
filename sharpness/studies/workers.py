"""Parallel execution of the cells of a study, each in a process of its own."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from typing import Any

import pandas as pd
import torch

from sharpness.data import LongTailData
from sharpness.engine import resolve_device
from sharpness.errors import UserError
from sharpness.models import BACKBONES
from sharpness.progress import progress
from sharpness.registry import registered, take_over
from sharpness.studies.cells import Cell, check_cells, is_done, run_cell
from sharpness.studies.settings import Settings

logger = logging.getLogger("sharpness")

#: In a worker: what all of its cells have in common.
_common: list[Any] = []


def run_cells(
    name: str, cells: Sequence[Cell], data: LongTailData, settings: Settings, jobs: int | None = 1
) -> pd.DataFrame:
    """Train and probe what is missing of all cells; one row per cell, in their order.

    A plan is logged first, and how long the rest will take once a cell has been made. What was finished before an
    interruption is read, not made again.

    Args:
        jobs: cells at a time, each in a process of its own that takes its share of the threads; None is one for each
            processor, up to four, and a single one with a GPU. On small images the threads of one process gain little.

    Raises:
        UserError: a recipe that cannot be made (before anything is trained), or a folder that holds another run.
    """
    if jobs is None:
        gpu = resolve_device(settings.training.get("device")).type != "cpu"
        jobs = 1 if gpu else min(4, os.cpu_count() or 1, len(cells))
    if jobs < 1:
        raise UserError(f"jobs={jobs}: give at least 1")
    check_cells(cells, data)
    if callable(model := settings.training.get("model")):
        settings = replace(settings, training={**settings.training, "model": BACKBONES.admit(model)})
    done = [is_done(cell, data, settings) for cell in cells]
    left = len(cells) - sum(done)
    logger.info("%s on %s: %d cells, %d done, %d to do", name, data.longtail.dataset, len(cells), sum(done), left)
    rows: dict[int, dict[str, Any]] = {}
    start, made = time.monotonic(), 0
    with progress(len(cells), name, "cells") as bar:
        for index, row in _rows(cells, data, settings, jobs):
            rows[index] = row
            bar.update()
            made += not done[index]  # finished cells are read in no time, and say nothing of the others
            if made == 1 and not done[index] and left > 1:
                minutes = (time.monotonic() - start) * (left - 1) / min(jobs, left) / 60
                logger.info("%s: about %.2g minutes for the other %d", name, minutes, left - 1)
    return pd.DataFrame([rows[index] for index in range(len(cells))])


def _rows(
    cells: Sequence[Cell], data: LongTailData, settings: Settings, jobs: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Indices and rows, as they get finished."""
    if jobs == 1:
        for index, cell in enumerate(cells):
            yield index, run_cell(cell, data, settings)
        return
    threads = max(1, torch.get_num_threads() // jobs)
    operations = {cell.operation.partition(":")[0] for cell in cells}
    needed = {cell.method for cell in cells} | operations | {settings.training.get("model") or "", *settings.measures}
    pool = ProcessPoolExecutor(
        jobs,
        multiprocessing.get_context("spawn"),
        initializer=_enter,
        initargs=(threads, data, settings, registered(needed)),
    )
    try:
        futures = {pool.submit(_run, cell): index for index, cell in enumerate(cells)}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _enter(threads: int, data: LongTailData, settings: Settings, known: dict[str, Any]) -> None:
    take_over(known)
    torch.set_num_threads(threads)
    _common[:] = [data, settings]
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(cell: Cell) -> dict[str, Any]:
    return run_cell(cell, *_common)
