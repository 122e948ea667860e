"""Rows of curvature probes (all samples, classes or groups), and the keywords of these probes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Executor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np

from sharpness.clusters import Parcel, do_all, parcelled, scratch_of
from sharpness.engine.threads import Here, Workers
from sharpness.errors import UserError
from sharpness.keywords import Default
from sharpness.objective import Objective
from sharpness.probes.shared.comparison import common_fields
from sharpness.probes.shared.cost import row_workers
from sharpness.probes.shared.probe import Given
from sharpness.probes.shared.work import Arrays, Resume, Work


class LayerOptions(Given, total=False):
    """Keywords of curvature per layer.

    Attributes:
        kind: ``"hessian"``, or ``"ggn"`` for its generalised Gauss-Newton part.
        coordinates: ``"filter"`` for the Hessian :math:`D H D`, where D holds the norms of the filters; it is invariant
            to rescaling weights in front of BatchNorm. ``"plain"`` for H itself. See :meth:`Objective.in_coordinates`.
            By default those of the objective, which are plain.
        per_group: one row per group of classes instead, with the Hessian of the loss over all its samples.
        match_samples: first draw this many samples of each class, with ``seed``, so that classes of different size are
            measured alike.
        resume: folder for unfinished work. The same call resumes from it and gives bitwise identical results.
    """

    kind: Annotated[str, Default("hessian")]
    coordinates: str | None
    per_group: Annotated[bool, Default(False)]
    match_samples: int | None
    resume: str | Path | None


class CurvatureOptions(LayerOptions, total=False):
    """Keywords of curvature per class.

    Attributes:
        executor: executor that computes the rows, each as a picklable task, see :func:`sharpness.cluster`; by default
            threads of this process.
    """

    executor: Executor | None


#: Function that is called with the number of products since the last call.
Callback = Callable[[int], object]


def ignore(products: int) -> None:
    """Callback that does nothing, for rows in other processes."""


class RowTask(Protocol):
    """A function that computes the arrays of row number ``row``, including ``products``."""

    def __call__(self, row: int, part: Objective, callback: Callback = ignore) -> Arrays: ...


@dataclass(frozen=True)
class Rows:
    """The objectives of all rows.

    Attributes:
        whole: the objective of all samples.
        parts: one objective for each row; None for a row without samples.
        names: names of the rows.
        several: False if there is a single row of all samples.
        grouped: True if rows are groups.
    """

    whole: Objective
    parts: tuple[Objective | None, ...]
    names: tuple[str, ...]
    several: bool
    grouped: bool

    @property
    def present(self) -> list[tuple[int, Objective]]:
        return [(i, part) for i, part in enumerate(self.parts) if part is not None]

    def indices(self, row: int) -> np.ndarray:
        """Indices of a row's samples; a row after those of classes or groups has all samples."""
        count = len(self.whole.groups) if self.grouped else self.whole.num_classes
        if not self.several or row >= count:
            return np.arange(self.whole.num_samples)
        classes = self.whole.classes.numpy()
        if not self.grouped:
            return np.flatnonzero(classes == row)
        return np.flatnonzero(np.isin(classes, list(self.whole.groups.values())[row]))

    @property
    def samples(self) -> np.ndarray:
        """Number of samples of each row, (rows,)."""
        return np.array([0 if part is None else part.num_samples for part in self.parts])

    @property
    def complete(self) -> bool:
        """True if every sample is in exactly one row; groups may omit or share classes."""
        if not self.grouped:
            return True
        classes = [c for members in self.whole.groups.values() for c in members]
        return len(classes) == len(set(classes)) and set(np.flatnonzero(self.whole.class_samples)) <= set(classes)

    @property
    def shares(self) -> np.ndarray:
        """Each row's share of the total weight of all rows, (rows,)."""
        weights = np.array([0.0 if p is None else float(p.weights.double().sum()) for p in self.parts])
        return weights / weights.sum()

    def gather(self, done: dict[int, Arrays], name: str, missing: Any, *shape: int) -> np.ndarray:
        """Stack an array of all rows to (rows, ...), or return that of a single row (...)."""
        table = [np.asarray(done[i][name]) if i in done else np.full(shape, missing) for i in range(len(self.parts))]
        return np.stack(table) if self.several else table[0]

    def sample_products(self, products: np.ndarray) -> int:
        """Sum over rows of products times samples."""
        return int((np.atleast_1d(products) * self.samples).sum())

    def work(self, folder: Resume, settings: dict[str, Any]) -> Work:
        """The work folder for rows.

        Its key depends on the settings, the samples of every row, and the value of the loss, because another loss may
        have the same name.
        """
        if folder is None:
            return Work(None, settings)
        data = [None if part is None else part.data_sha256 for part in self.parts]
        of_rows = {"rows": list(self.names), "data": data, "value": f"{self.whole.loss():.4g}"}
        return Work(folder, {"settings": settings, **of_rows})

    def map(
        self, work: Work, task: RowTask, bar: Any, executor: Executor | None = None, basis: int = 0
    ) -> dict[int, Arrays]:
        """Compute the arrays of all rows that are not done, one task per row, and save each when it is done.

        Args:
            work: storage of the rows.
            task: function that computes a row; it is pickled if the executor's workers are other processes.
            bar: progress bar of products.
            executor: executor that computes rows, see :func:`sharpness.cluster`. By default, rows are computed in as
                many threads of this process as processors and memory allow. If there are as many rows as torch has
                threads, each row uses one of torch's threads, and numbers are those of a process with one thread.
            basis: number of vectors of the size of the model that a row stores.

        Returns:
            The arrays by the index of the row; rows without samples are missing.
        """
        parts, done = dict(self.present), {}
        for i in parts:
            if (found := work.row(i)) is not None:
                done[i] = found
                bar.update(int(np.sum(found["products"])))
        left = {i: parts[i] for i in parts if i not in done}
        if not left:
            return done
        if executor is None:
            done |= self._side_by_side(work, task, bar, left, basis)
        else:
            done |= self._elsewhere(work, task, bar, left, executor)
        return dict(sorted(done.items()))

    def _side_by_side(
        self, work: Work, task: RowTask, bar: Any, left: dict[int, Objective], basis: int
    ) -> dict[int, Arrays]:
        """Compute rows in threads of this process."""
        # As many workers as for all rows: a single row would otherwise use all of torch's threads, and differ in the
        # last digits from an uninterrupted call.
        with row_workers(self.whole, len(self.present), basis) as pool:

            def callback(products: int) -> None:
                if isinstance(pool, Workers):
                    pool.look()
                bar.update(products)

            waiting = {}
            for i in left if isinstance(pool, Here) else by_cost(left):
                bar.set_postfix_str(self.names[i])
                waiting[i] = pool.submit(work.once, i, partial(task, part=left[i], callback=callback))
            # Raise the first failure; the workers then stop the other rows.
            finished, _ = wait(waiting.values(), return_when=FIRST_EXCEPTION)
            for future in finished:
                future.result()
            return {i: future.result() for i, future in waiting.items()}

    def _elsewhere(
        self, work: Work, task: RowTask, bar: Any, left: dict[int, Objective], executor: Executor
    ) -> dict[int, Arrays]:
        """Compute rows on an executor: its workers read the whole objective once, and select rows themselves.

        Without a folder that workers can read, every row is sent to them.
        """
        folder, done = scratch_of(executor, work.folder), {}
        with ExitStack() as parcels:
            if folder is not None:
                cut = partial(part_of, self.whole, self.several, self.grouped)
                shared = parcels.enter_context(parcelled(cut, folder))
            calls = {
                i: partial(_sent, work, task, i, shared if folder is not None else _alone(left[i]))
                for i in by_cost(left)
            }
            for i, found in do_all(executor, calls):
                done[i] = found
                bar.set_postfix_str(self.names[i])
                bar.update(int(np.sum(found["products"])))
        return done

    def fields(self, **settings: Any) -> dict[str, Any]:
        """The fields common to all results. If rows are groups, they take the place of classes."""
        common = common_fields(self.whole, rows="groups" if self.grouped else "classes", **settings)
        if self.grouped:
            weights = np.array([0.0 if part is None else part.class_weights.sum() for part in self.parts])
            common |= {"class_names": self.names, "class_samples": self.samples, "class_weights": weights, "groups": {}}
        return common


def by_cost(rows: dict[int, Objective]) -> list[int]:
    """Sort rows from the most to the fewest samples, so that the last tasks to finish are short."""
    return sorted(rows, key=lambda i: -rows[i].num_samples)


def part_of(whole: Objective, several: bool, grouped: bool, row: int) -> Objective:
    """The objective of a row; a row after all classes has all samples."""
    if grouped:
        return whole.restrict(list(whole.groups)[row])
    return whole.restrict(row) if several and row < whole.num_classes else whole


def _sent(work: Work, task: RowTask, row: int, parcel: Parcel) -> Arrays:
    """Compute a row in another process unless it is done; the parcel has a function from row number to objective."""
    return work.once(row, lambda row: task(row, parcel.open()(row)))


def _alone(part: Objective) -> Parcel:
    """Make a parcel of a single row."""
    with parcelled(partial(_itself, part), None) as parcel:
        return parcel


def _itself(part: Objective, row: int) -> Objective:
    return part


def rows_of(objective: Objective, per_class: bool, seed: int = 0, options: LayerOptions | None = None) -> Rows:
    """Make the rows of a probe.

    Args:
        seed: seed of the samples drawn by ``match_samples``.
        options: options of the probe, of which ``per_group``, ``match_samples`` and ``coordinates`` are used.

    Raises:
        UserError: both classes and groups were requested, there are no groups, or a class has too few samples.
    """
    options = options or {}
    per_group, coordinates, match_samples = (
        options.get("per_group"), options.get("coordinates"), options.get("match_samples")
    )  # fmt: skip
    if per_class and per_group:
        raise UserError("per_class and per_group: ask for one of them at a time")
    # Before classes are selected: the norms of the filters are the same for all of them.
    if coordinates is not None:
        objective = objective.in_coordinates(coordinates)
    if match_samples is not None:
        objective = objective.matched(match_samples, seed)
    if per_group:
        if not objective.groups:
            raise UserError("per_group=True, but this objective has no groups: give it groups={name: classes}")
        members = objective.present_groups
        parts = tuple(objective.restrict(name) if members[name] else None for name in members)
        return Rows(objective, parts, tuple(members), several=True, grouped=True)
    if per_class:
        counts = objective.class_samples
        classes_parts = tuple(objective.restrict(c) if counts[c] else None for c in range(objective.num_classes))
        return Rows(objective, classes_parts, objective.class_names, several=True, grouped=False)
    return Rows(objective, (objective,), ("all",), several=False, grouped=False)
