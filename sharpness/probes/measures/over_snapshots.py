"""Sharpness over the snapshots of a finished run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sharpness.checkpoints import Checkpoint, load_checkpoint
from sharpness.errors import UserError
from sharpness.methods import METHODS, build_recipe, flattened
from sharpness.methods.events import changes, events
from sharpness.probes.directions.run_steps import snapshots
from sharpness.probes.measures.recorder import USUAL, Recorder, small_sample
from sharpness.probes.shared.as_objective import checkpoint_objective
from sharpness.progress import progress
from sharpness.results.history import COLUMNS, History, events_by


def history(
    run: str | Path,
    measures: str | Sequence[str] = USUAL,
    samples: int = 8,
    *,
    tol: float = 1e-2,
    max_iterations: int = 40,
    seed: int = 0,
    **options: Any,
) -> History:
    """Measure the snapshots of a run: the sharpness of all samples and of every group over epochs.

    Eigenvalue iterations start from the vectors of the previous snapshot. The largest eigenvalue of a group is that of
    the loss over all its samples; all other values of a group are means over its classes. Events are new stages,
    deferred re-weighting or sampling, and drops of the learning rate, as recorded in the recipe and in the run's
    ``history.csv``.

    Args:
        run: folder of a run that was trained with ``snapshots=``.
        measures: names of measures; by default accuracy, loss and the largest eigenvalue.
        samples: number of samples per class, the same for all snapshots, weighted to represent the whole class.
        tol: relative tolerance of eigenvalue residuals.
        max_iterations: maximum number of products per eigenvalue.
        seed: seed of the samples and the first starting vectors.
        options: options of :func:`~sharpness.checkpoint_objective`.

    Returns:
        The history, with one row for every snapshot, subset and measure.

    Raises:
        UserError: no snapshots, or an unknown measure.

    >>> history("no such run", "loss")
    Traceback (most recent call last):
    ...
    sharpness.errors.UserError: no such run holds no snapshots: train with snapshots=N, or give the checkpoints in order
    """
    paths, recorder = snapshots(run), Recorder(measures, tol, max_iterations, seed)
    told = Path(run) / "history.csv"
    epochs = pd.read_csv(told) if told.is_file() else pd.DataFrame()
    # Runs of other programs may have snapshots but no history, and thus no events.
    happened = _events(load_checkpoint(paths[-1]), epochs)
    rows: list[dict[str, Any]] = []
    since = 0
    with progress(len(paths), "history", "snapshots") as bar:
        for number, path in enumerate(paths):
            digits = re.search(r"(\d+)$", path.stem)
            epoch = int(digits[1]) if digits else number
            lr = epochs.lr.iloc[epoch - 1] if 0 < epoch <= len(epochs) else None
            objective = small_sample(checkpoint_objective(load_checkpoint(path), **options), samples, seed)
            found = recorder.rows(objective, float(epoch))
            event = events_by(epoch, {i + 1: what for i, what in enumerate(happened) if since <= i < epoch})
            rows += [{**row, "share": np.nan, "lr": lr, "event": event} for row in found]
            since = epoch
            bar.update()
    return History(pd.DataFrame(rows, columns=list(COLUMNS)))


def _events(checkpoint: Checkpoint, epochs: pd.DataFrame) -> list[str]:
    """The events of every epoch: those of the recipe if it is known and fits the history, else those of the history."""
    if epochs.empty:
        return []
    manifest = checkpoint.manifest
    training = manifest.training
    with suppress(UserError, KeyError, TypeError):
        METHODS.recorded(manifest.method or "", manifest.method_source, checkpoint.path)
        recipe = build_recipe(manifest.method or "", checkpoint.longtail, **(manifest.options or {}))
        recipe = flattened(recipe, tuple(training["flatten"])).with_epochs(training["epochs"][0])
        if [stage.epochs for stage in recipe.stages] == list(training["epochs"]) and len(told := events(recipe)) == len(
            epochs
        ):
            return told
    return changes(list(epochs.stage), list(epochs.lr))
