"""Numbered points of parameter space: each is evaluated once, saved during work, and shared among processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpness.clusters import Parcel, do_all, parcelled, scratch_of, width
from sharpness.engine import distributed
from sharpness.engine.class_sums import ClassSums
from sharpness.objective import Objective
from sharpness.probes.shared.cost import announce
from sharpness.probes.shared.work import Resume, Work, key_of
from sharpness.progress import progress

#: Expected seconds from which the duration is announced.
LONG = 20.0
#: Fraction of all points that adaptive interpolation usually evaluates.
USUAL = 1 / 3
#: Blocks of points for each worker.
BLOCKS = 4


def row_at(evaluation: Callable[[Tensor | None], ClassSums], displacement: Tensor | None) -> np.ndarray:
    """Compute the row (1 + 2C,) of a point: loss, class losses and class accuracies."""
    sums = evaluation(displacement)
    return np.concatenate([[sums.mean], sums.class_means, sums.class_accuracies])


def _sent(work: Work, parcel: Parcel, indices: np.ndarray) -> np.ndarray:
    """Compute and save the rows of a block of points (m,) in another process.

    Args:
        parcel: the objective, its displacements and the precision.
    """
    name = f"points-block-{key_of({'indices': indices.tolist()})}"
    if (found := work.load(name)) is not None:
        return found["rows"]
    objective, displacement, precision = parcel.open()
    evaluation = objective.evaluation(precision)
    rows = np.stack([row_at(evaluation, displacement(int(i))) for i in indices])
    work.save(name, {"indices": indices, "rows": rows})
    return rows


class PointTable:
    """Losses at ``w + displacement(i)`` for ``i < number``, filled in by :meth:`evaluate`.

    Args:
        precision: ``"bfloat16"``, or the model's own.
        folder: folder for evaluated points, keyed by model, data, loss and ``settings``; None saves nothing.
        settings: plain values that the displacements depend on.
        executor: executor that evaluates blocks of points, see :func:`sharpness.cluster`; by default this process does.

    Attributes:
        losses: (number,), NaN where nothing was evaluated.
        class_losses: (C, number).
        class_accuracies: (C, number).
        done: (number,) mask of evaluated points.
        rows: (number, 1 + 2C) losses, class losses and class accuracies of all points.
        center: (1 + 2C,) the same at w.
        seconds: duration of the evaluation at w, summed over processes.
    """

    def __init__(
        self,
        objective: Objective,
        displacement: Callable[[int], Tensor],
        number: int,
        what: str,
        precision: str,
        folder: Resume = None,
        settings: dict[str, Any] | None = None,
        executor: Executor | None = None,
    ) -> None:
        self.objective, self.displacement, self.what = objective, displacement, what
        self.classes = objective.num_classes
        self.rows = np.full((number, 1 + 2 * self.classes), np.nan)
        self.done = np.zeros(number, dtype=bool)
        self._evaluation = objective.evaluation(precision)
        self._executor, self._precision = executor, precision
        start = time.perf_counter()
        self.center = self._row(None)
        # Summed over processes, so that decisions based on it are the same in all of them.
        self.seconds = float(distributed.total(torch.tensor(time.perf_counter() - start, dtype=torch.float64)))
        # Everything that the numbers depend on. The loss by its value, because another loss may have the same name.
        known = {"precision": precision, "points": number, "center": f"{self.center[0]:.6g}"}
        self._work = Work(folder, objective.provenance() | (settings or {}) | known)
        self._bar: Any = None
        self._load()

    @property
    def losses(self) -> np.ndarray:
        return self.rows[:, 0]

    @property
    def class_losses(self) -> np.ndarray:
        return self.rows[:, 1 : 1 + self.classes].T

    @property
    def class_accuracies(self) -> np.ndarray:
        return self.rows[:, 1 + self.classes :].T

    def fill(self, indices: np.ndarray, row: np.ndarray) -> None:
        """Set the row (1 + 2C,) of some points to a known one."""
        self.rows[indices], self.done[indices] = row, True

    def evaluate(self, indices: np.ndarray | None = None) -> np.ndarray:
        """Return the rows (m, 1 + 2C) of some points (by default all), evaluating those that are not done."""
        wanted = np.arange(len(self.rows)) if indices is None else np.asarray(indices)
        todo = wanted[~self.done[wanted]]
        if self._executor is not None and len(todo) > 1:
            self._send(todo, len(wanted))
            return self.rows[wanted]
        processes = distributed.world_size()
        own = todo[distributed.rank() :: processes]
        try:
            with self._watched(len(wanted), len(wanted) - len(todo)) as bar:
                for count, i in enumerate(own):
                    start = time.monotonic()
                    self.rows[i], self.done[i] = self._row(self.displacement(int(i))), True
                    bar.update(min(processes, len(todo) - count * processes))
                    if count == 0:
                        self._announce(len(own), time.monotonic() - start)
                    if self._work.due:
                        self._save()
        finally:
            self._save()
        self._share(np.isin(np.arange(len(self.rows)), own))
        return self.rows[wanted]

    def _row(self, displacement: Tensor | None) -> np.ndarray:
        return row_at(self._evaluation, displacement)

    def _send(self, todo: np.ndarray, total: int) -> None:
        """Have blocks of points evaluated by the executor, several for each worker to balance the load."""
        assert self._executor is not None
        blocks = np.array_split(todo, min(len(todo), BLOCKS * width(self._executor)))
        content = self.objective, self.displacement, self._precision
        with (
            parcelled(content, scratch_of(self._executor, self._work.folder)) as parcel,
            self._watched(total, total - len(todo)) as bar,
        ):
            calls = {tuple(block.tolist()): partial(_sent, self._work, parcel, block) for block in blocks}
            for cells, rows in do_all(self._executor, calls):
                self.rows[list(cells)], self.done[list(cells)] = rows, True
                bar.update(len(cells))

    @contextmanager
    def rounds(self) -> Iterator[None]:
        """Show one progress bar and one estimate for all calls of :meth:`evaluate` inside, which may skip points."""
        done = int(self.done.sum())
        self._left = -(-(len(self.rows) - done) // distributed.world_size())
        with progress(len(self.rows), f"{self.what}, at most", "points", done=done) as self._bar:
            try:
                yield
            finally:
                self._bar = None

    def _watched(self, total: int, done: int) -> Any:
        return progress(total, self.what, "points", done=done) if self._bar is None else nullcontext(self._bar)

    def _announce(self, points: int, seconds: float) -> None:
        """Announce the expected time for ``points`` points if it is long, given the seconds of a single one."""
        number, share, usually = points, 1.0, ""
        if self._bar is not None:
            number, share, usually = self._left, USUAL, ", usually a third"
            self._left = 0  # once for all rounds
        expected = number * share * seconds
        if number and expected >= LONG:
            up_to = "up to " if usually else ""
            announce(
                f"{self.what}: {up_to}{number} points x {self.objective.num_samples} samples{usually}", lambda: expected
            )

    def _load(self) -> None:
        """Read the points that processes of an earlier call have saved; the first process reads for all."""
        if self._work.folder is None:
            return
        if distributed.rank() == 0:
            for found in self._work.parts("points"):
                self.rows[found["indices"]], self.done[found["indices"]] = found["rows"], True
        self._share(self.done)

    def _share(self, mine: np.ndarray) -> None:
        """Share rows among all processes; a point is in the mask ``mine`` (number,) of at most one of them."""
        if distributed.world_size() == 1:
            return
        known = distributed.total(torch.from_numpy(np.where(mine[:, None], self.rows, 0.0))).numpy()
        done = distributed.total(torch.from_numpy(mine.astype(np.float64))).numpy() > 0
        self.rows[done], self.done[done] = known[done], True

    def _save(self) -> None:
        if self.done.any():
            indices = np.flatnonzero(self.done)
            self._work.save_part("points", {"indices": indices, "rows": self.rows[indices]})
