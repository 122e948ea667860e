"""Results of several trainings of one model: the spread over seeds, in addition to the errors of each result."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, overload

import numpy as np
import pandas as pd
import xarray as xr

from sharpness.errors import UserError, printable
from sharpness.results.base import Result
from sharpness.results.picture import plot_of
from sharpness.results.stacked import stack
from sharpness.results.tables import joined, of_training, over_trainings
from sharpness.results.tabular import Tabular
from sharpness.results.words import told_circumstances, without_repetition

R = TypeVar("R", bound=Result)
#: The dimension of trainings in a data set.
RUN = "training"


class Runs(Tabular, Sequence[R]):
    """Results of one probe for several trainings that differ in their seed, in the order of the seeds.

    Items are the single results, by number or by name. A :class:`Comparison` accepts them in place of a single result.

    Args:
        results: results of one kind, one per training.
        names: names of the trainings, such as ``"seed 0"``; by default as recorded in the results.

    Raises:
        UserError: no result, results of several kinds, or a duplicate name.
    """

    def __init__(self, results: Sequence[R], names: Sequence[str] | None = None) -> None:
        self.results = tuple(results)
        if not self.results:
            raise UserError("no result: give those of one training at least")
        if len(kinds := sorted({type(r).__name__ for r in self.results})) > 1:
            raise UserError(f"{' and '.join(kinds)} cannot be trainings of one model: give results of one kind")
        told = [r.provenance.get("run") for r in self.results]
        numbered = None in told or len(set(told)) < len(told)
        self.names = tuple(names or ([f"run {i + 1}" for i in range(len(told))] if numbered else map(str, told)))
        if len(set(self.names)) < len(self.names) or len(self.names) != len(self.results):
            raise UserError(f"names {', '.join(self.names)}: give each of {len(self.results)} results one of its own")

    @overload
    def __getitem__(self, key: int | str) -> R: ...
    @overload
    def __getitem__(self, key: slice) -> Runs[R]: ...
    def __getitem__(self, key: int | str | slice) -> R | Runs[R]:
        if isinstance(key, slice):
            return Runs(self.results[key], self.names[key])
        if isinstance(key, str):
            if key not in self.names:
                raise UserError(f"no training {key!r}: choose one of {', '.join(self.names)}")
            return self.results[self.names.index(key)]
        return self.results[key]

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[R]:
        return iter(self.results)

    @property
    def label(self) -> str:
        return self.results[0].label

    def over(self, of: Callable[[R], Any]) -> np.ndarray:
        """``of(result)`` of every training, stacked along a first axis."""
        return np.stack([np.asarray(of(r)) for r in self.results])

    @property
    def mean(self) -> xr.Dataset:
        """The mean over trainings of every array of the results, by name."""
        return self._numbers().mean(RUN)

    @property
    def spread(self) -> xr.Dataset:
        """The standard deviation over trainings (n - 1 in the denominator); NaN for a single training."""
        numbers = self._numbers()
        return numbers.std(RUN, ddof=1) if len(self) > 1 else numbers.mean(RUN) * np.nan

    def _numbers(self) -> xr.Dataset:
        data = self.to_dataset().drop_vars("vectors", errors="ignore")  # a mean of eigenvectors means nothing
        return data.drop_vars([name for name, array in data.data_vars.items() if array.dtype.kind != "f"])

    def to_frame(self, long: bool = False) -> pd.DataFrame:
        """The tables of all trainings, with the name of the training in the first column, ``run``.

        Args:
            long: one row for every number, see :meth:`Result.to_frame`.
        """
        frames = [r.to_frame(long) for r in self.results]
        if long:
            named = zip(frames, self.names, strict=True)
            return joined([of_training(frame, self.label, name) for frame, name in named])
        for frame, name in zip(frames, self.names, strict=True):
            frame.insert(0, "run", name)
        return pd.concat(frames, ignore_index=True)

    def summary(self) -> pd.DataFrame:
        """One row for every row of a result's table: means over trainings, with their spread in columns ``<name>_sd``.

        A column ``<name>_se`` is the mean of the single results' standard errors, over images or draws. Flags are True
        if they are in all trainings, counts that differ are summed, texts that differ are joined, and values missing in
        a training are omitted.
        """
        return over_trainings([r.to_frame() for r in self.results])

    def _numbers_read(self) -> pd.DataFrame:
        return self.summary()

    @property
    def _first(self) -> R:
        return self.results[0]

    @property
    def notes(self) -> list[str]:
        """Lines below the table, see :attr:`Result.notes`; lines for only some trainings name them."""
        frame, found = self.summary(), zip(self.names, self.results, strict=True)
        return without_repetition({name: [*r.notes_on(frame), *told_circumstances(r.provenance)] for name, r in found})

    @property
    def plot(self) -> Callable[..., Any]:
        """Plot mean and spread over trainings; plots with room for only one training show the first and name it.

        ``help(runs.plot)`` lists the options of their kind.
        """
        return plot_of(type(self.results[0]), lambda runs: {runs.label: runs}).__get__(self)

    def to_dataset(self) -> xr.Dataset:
        """All results in one data set; ``training`` is the first dimension of every array."""
        parts = [r.to_dataset() for r in self.results]
        if len({tuple(sorted((str(n), p[n].shape) for n in p.variables)) for p in parts}) > 1:
            raise UserError(f"{self.label}: its trainings have arrays of other names or sizes: take one at a time")
        return stack(parts, RUN, self.names).assign_attrs(trainings=json.dumps(self.names))

    def __repr__(self) -> str:
        return f"Runs({printable(self._heading())} of {type(self._first).__name__})"

    def _heading(self) -> str:
        return f"{self.label}: {', '.join(self.names)}"


#: The value of a label in a comparison: one result, or those of several trainings.
Entry = Result | Runs[Any]
