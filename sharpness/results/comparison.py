"""Results of several models side by side, each of one training or of several."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import xarray as xr

from sharpness.errors import UserError, choose
from sharpness.results.base import Result
from sharpness.results.paired import Paired, paired
from sharpness.results.picture import plot_of
from sharpness.results.runs import Entry, Runs
from sharpness.results.same import SHARED, noise_fields, require_same
from sharpness.results.stacked import stack
from sharpness.results.tables import joined, of_training
from sharpness.results.tabular import Tabular
from sharpness.results.words import without_repetition

#: The dimension of models in a data set.
MODEL = "model"
R = TypeVar("R", bound=Result | Runs[Any])


class Comparison(Tabular, dict[str, R]):
    """Results of several models by label, each a result or :class:`Runs`, with joint tables and plots."""

    def to_frame(self, long: bool = False) -> pd.DataFrame:
        """The tables of all results, with the label in the first column, ``model``.

        If a model was trained several times, the second column, ``run``, has the name of the training.

        Args:
            long: one row for every number, with ``model`` and ``seed``, see :meth:`Result.to_frame`.

        Raises:
            UserError: results of different images, classes or groups.
        """
        require_same(self.each(), shared=())
        if long:
            frames = [
                of_training(one.to_frame(long=True), label, name)
                for label, entry in self.items()
                for name, one in zip(names_of(entry), trainings_of(entry), strict=True)
            ]
            return joined(frames)
        return _joined({label: entry.to_frame() for label, entry in self.items()})

    def summary(self) -> pd.DataFrame:
        """The table with means over the trainings of each model and their spread, see :meth:`Runs.summary`."""
        require_same(self.each(), shared=())
        return _joined({k: v.summary() if isinstance(v, Runs) else v.to_frame() for k, v in self.items()})

    def _numbers_read(self) -> pd.DataFrame:
        return self.summary()

    @property
    def _first(self) -> Result:
        return first_of(self)

    @property
    def notes(self) -> list[str]:
        """The lines below the tables of all models, without repetition; lines for only some models name them."""
        told = without_repetition({label: entry.notes for label, entry in self.items()})
        try:
            return [*told, self.paired().note]
        except UserError:  # single trainings, or seeds that are not shared
            return told

    def paired(self, measures: str | Sequence[str] | None = None, subsets: Any = None, level: float = 0.05) -> Paired:
        """Compare models over trainings of the same seeds, see :func:`~sharpness.results.paired.paired`."""
        return paired(self, measures, subsets, level)

    def pivot(self, measure: str) -> pd.DataFrame:
        """One measure with a row per class and a column per model; for several trainings, their mean.

        Rows are those of the results' tables: all samples together, groups, classes. If a measure has several values
        per class, as for several radii, each has its own row.

        Raises:
            UserError: an unknown measure, or results that cannot share a table.
        """
        require_same(self.each(), shared=())
        whole = {label: [one.to_frame(long=True) for one in trainings_of(entry)] for label, entry in self.items()}
        measures = dict.fromkeys(name for of in whole.values() for one in of for name in one["measure"])
        choose("measure", measure, list(measures))
        chosen = {label: [one[one["measure"] == measure] for one in of] for label, of in whole.items()}
        every = pd.concat([one for of in chosen.values() for one in of])
        axes = [axis for axis in first_of(self).AXES if every[axis].nunique(dropna=False) > 1]
        columns = {}
        for label, of in chosen.items():
            # Trainings have the same rows in the same order, or none if the measure was not taken.
            known = [one for one in of if len(one)] or of[:1]
            means = _mean(np.stack([one["value"].to_numpy(float) for one in known]))
            columns[label] = pd.Series(means, index=pd.MultiIndex.from_frame(known[0][["class", *axes]]))
        found = pd.DataFrame(columns)
        return found if axes else found.set_index(found.index.get_level_values(0))

    def to_dataset(self) -> xr.Dataset:
        """All results in one data set; arrays of equal shape in all models get ``model`` as first dimension."""
        if not self:
            raise UserError("an empty comparison has nothing to save: give it a result")
        single = self.each()
        data = stack([result.to_dataset() for result in single.values()], MODEL, list(single))
        trainings = [[label, list(v.names) if isinstance(v, Runs) else None] for label, v in self.items()]
        return data.assign_attrs(comparison=json.dumps(trainings))

    def each(self) -> dict[str, Any]:
        """Single results: those of several trainings as ``"<label>, <training>"``."""
        return each(self)

    @property
    def plot(self) -> Callable[..., Any]:
        """Plot all results on common scales; ``help(comparison.plot)`` lists the options of their kind."""
        return plot_of(type(first_of(self)), dict).__get__(self)

    def _repr_html_(self) -> str:
        return super()._repr_html_() if self else "no results"


def compare(results: Mapping[str, R | Sequence[R]]) -> Comparison[R | Runs[Any]]:
    """Combine results of several models, for example from files, into one comparison.

    Args:
        results: ``{label: result}``, all of the same kind. A list of results, or :class:`Runs`, under a label means
            several trainings of one model.

    Returns:
        The comparison, with joint tables, plots and files.

    Raises:
        UserError: no results, objects that are not results, or results that cannot be compared because their kinds,
            samples, classes, groups or settings differ. The message names the field that differs and both values.

    >>> compare({})
    Traceback (most recent call last):
    ...
    sharpness.errors.UserError: no results to compare: give {label: result}
    """
    if not isinstance(results, Mapping) or not results:
        raise UserError("no results to compare: give {label: result}")
    found: Comparison[Any] = Comparison()
    for label, entry in results.items():
        members = list(entry) if isinstance(entry, Runs | list | tuple) else [entry]
        for one in members:
            if not isinstance(one, Result):
                raise UserError(
                    f"{label!r}: {type(one).__name__} is no result: give what a probe or load_result returns"
                )
        found[str(label)] = Runs(members) if isinstance(entry, list | tuple) else entry
    if len(found) < len(results):
        raise UserError(f"labels {', '.join(map(str, results))}: give every model one of its own")
    first = first_of(found)
    versions = [name for r in found.each().values() for name in r.provenance if name.startswith("version of ")]
    fields = noise_fields(first, first.COMPARED)
    require_same(found.each(), fields, shared=(*SHARED, *first.SETTINGS, *dict.fromkeys(versions)))
    return found


def _joined(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Concatenate tables; ``run`` is empty for a single training."""
    frame = pd.concat([f.assign(model=label) for label, f in frames.items()], ignore_index=True)
    first = ["model", "run"] if "run" in frame else ["model"]
    if "run" in frame:
        frame["run"] = frame["run"].astype(object).fillna("")
    return frame[[*first, *[c for c in frame.columns if c not in first]]]


def names_of(entry: Entry) -> list[str | None]:
    """The names of the trainings of a model; for a single one the name that it records, or None."""
    return list(entry.names) if isinstance(entry, Runs) else [entry.provenance.get("run")]


def trainings_of(entry: Entry) -> list[Any]:
    """The results of all trainings of a model."""
    return list(entry) if isinstance(entry, Runs) else [entry]


def each(results: Mapping[str, Entry]) -> dict[str, Any]:
    """Single results: those of several trainings as ``"<label>, <training>"``."""
    found: dict[str, Any] = {}
    for label, entry in results.items():
        if isinstance(entry, Runs):
            found |= {f"{label}, {name}": result for name, result in zip(entry.names, entry, strict=True)}
        else:
            found[label] = entry
    return found


def one_training(results: Mapping[str, Entry], run: str | None = None) -> dict[str, Any]:
    """Select one training of each model, by default the first; the label names it if there are several.

    Raises:
        UserError: no label has a training of that name.
    """
    names = dict.fromkeys(n for entry in results.values() if isinstance(entry, Runs) for n in entry.names)
    if run is not None and run not in names:
        raise UserError(f"run={run!r}: " + (f"choose one of {', '.join(names)}" if names else "there is one of each"))
    found: dict[str, Any] = {}
    for label, entry in results.items():
        if isinstance(entry, Runs):
            name = run if run in entry.names else entry.names[0]
            found[f"{label}, {name}"] = entry[str(name)]
        else:
            found[label] = entry
    return found


def first_of(results: Mapping[str, Entry]) -> Any:
    """The first result, from which common properties are read.

    Raises:
        UserError: there is none.
    """
    if not results:
        raise UserError("an empty comparison has no numbers: give it a result")
    return trainings_of(next(iter(results.values())))[0]


def means(results: Mapping[str, Entry], of: Callable[[Any], Any]) -> dict[str, np.ndarray]:
    """``of(result)`` for every model; for several trainings, the mean over those that have a value."""
    return {label: _mean(np.stack([np.asarray(of(r)) for r in trainings_of(v)])) for label, v in results.items()}


def spreads(results: Mapping[str, Entry], of: Callable[[Any], Any]) -> dict[str, np.ndarray]:
    """``of(result)`` of every training, stacked, for models with several trainings."""
    return {label: entry.over(of) for label, entry in results.items() if isinstance(entry, Runs) and len(entry) > 1}


def stacked(results: Mapping[str, Entry], of: Callable[[Any], Any]) -> dict[str, np.ndarray]:
    """``of(result)`` for every model; for several trainings, stacked."""
    return {label: np.asarray(of(first_of({label: v}))) for label, v in results.items()} | spreads(results, of)


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean over the first axis, without NaN; NaN if nothing is left. A single entry is returned unchanged."""
    if len(values) == 1:
        return values[0]
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
