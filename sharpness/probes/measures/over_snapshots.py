"""Sharpness over the snapshots of a run that is over."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sharpness.checkpoints import load_checkpoint
from sharpness.probes.landscapes.trajectory import snapshots
from sharpness.probes.measures.recorder import USUAL, Recorder, small_sample
from sharpness.probes.shared.as_objective import checkpoint_objective
from sharpness.progress import progress
from sharpness.results.history import COLUMNS, History

#: A learning rate that falls below this part of the one before is an event.
DROP = 0.5


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
    """Measure the snapshots of a run: the sharpness of all samples and of every group, over its epochs.

    Eigenvalues begin with the vectors of the snapshot before. Events are new stages and drops of the learning rate, as
    the run's ``history.csv`` tells.

    Args:
        run: folder of a run that was trained with ``snapshots=``.
        measures: names of measures; accuracy, loss and the largest eigenvalue unless given.
        samples: of every class, the same for all snapshots, each with the weight of those that it stands for.
        tol: residual of eigenvalues, relative to them.
        max_iterations: products of each eigenvalue at most.
        seed: of the samples and the first vectors.
        options: of :func:`~sharpness.checkpoint_objective`.

    Returns:
        The history, a row for every snapshot, subset and measure.

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
    # Runs of others may have snapshots and no history: they have no events.
    rows: list[dict[str, Any]] = []
    before: dict[str, Any] = {}
    with progress(len(paths), "history", "snapshots") as bar:
        for number, path in enumerate(paths):
            digits = re.search(r"(\d+)$", path.stem)
            epoch = int(digits[1]) if digits else number
            now = epochs.iloc[epoch - 1].to_dict() if 0 < epoch <= len(epochs) else {}
            objective = small_sample(checkpoint_objective(load_checkpoint(path), **options), samples, seed)
            found = recorder.rows(objective, float(epoch))
            event = _event(before, now)
            rows += [{**row, "share": np.nan, "lr": now.get("lr"), "event": event} for row in found]
            before = now or before
            bar.update()
    return History(pd.DataFrame(rows, columns=list(COLUMNS)))


def _event(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The change between two rows of a run's history, in words."""
    if not before or not now:
        return ""
    if before["stage"] != now["stage"]:
        return str(now["stage"])
    return f"lr {now['lr']:g}" if now["lr"] < DROP * before["lr"] else ""
