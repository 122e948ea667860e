"""Base class of results: frozen, tabular, saved as one NetCDF file, with provenance."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from html import escape
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import xarray as xr

from sharpness.errors import UserError, choose, printable
from sharpness.identity import ONE_CLASS, VALUES, SampleIdentity
from sharpness.renamed import renamed_attribute
from sharpness.results.estimates import Estimate, Estimates, Subset, mean_of
from sharpness.results.latex import as_latex
from sharpness.results.netcdf import write_dataset
from sharpness.results.picture import Later, plot_of
from sharpness.results.same import Probed
from sharpness.results.tables import Checks, as_html, joined, long_form, of_training, with_errors
from sharpness.results.words import told_temperature
from sharpness.untrusted.refused import Refused


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Result:
    """Numbers of one probe of one model.

    Attributes:
        class_names: names of the C classes.
        class_samples: (C,) samples of each class that were probed.
        class_weights: (C,) the sum of their weights; None in files from before it was kept, which had equal ones.
        groups: named sets of class indices. A group's value is the mean of the values of its classes that have samples.
        provenance: how the numbers came about; plain values.
        sample_ids: (n, 3) class and content of every sample, see :class:`~sharpness.data.SampleIdentity`; None in files
            from before they were kept.
        sample_weights: (n,) weights of the samples, or None where all count alike.
    """

    #: For every array, the names of its dimensions. Everything else is a plain value.
    DIMENSIONS: ClassVar[dict[str, tuple[str, ...]]] = {
        "class_samples": ("class",),
        "class_weights": ("class",),
        "sample_ids": ("sample", "word"),
        "sample_weights": ("sample",),
    }
    #: New names of fields by their old ones, which files of the version before have.
    RENAMED: ClassVar[dict[str, str]] = {}
    #: The first dimension, where a result of this kind may be of everything together and arrays lack it.
    OPTIONAL_DIMENSION: ClassVar[str | None] = None
    #: What names or numbers the places along a dimension, by the name of the dimension.
    COORDINATES: ClassVar[dict[str, str]] = {
        "class": "class_names", "group": "groups", "measure": "names", "layer": "layers", "mark": "mark_names",
        "radius": "radii", "factor": "factors", "rank": "ranks", "column": "columns",
    }  # fmt: skip
    #: Attributes, and settings in the provenance, that must agree for results to be compared.
    COMPARED: ClassVar[tuple[str, ...]] = ()
    SETTINGS: ClassVar[tuple[str, ...]] = ("kind", "match_samples")
    REGISTRY: ClassVar[dict[str, type[Result]]] = {}
    #: Columns of the table that tell numbers of one measure and class apart.
    AXES: ClassVar[tuple[str, ...]] = ()
    #: Rows of a table that a notebook shows.
    ROWS: ClassVar[int] = 20

    class_names: tuple[str, ...]
    class_samples: np.ndarray  # (C,)
    groups: dict[str, tuple[int, ...]]
    provenance: dict[str, Any]
    class_weights: np.ndarray | None = None  # (C,)
    sample_ids: np.ndarray | None = None  # (n, 3)
    sample_weights: np.ndarray | None = None  # (n,)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.DIMENSIONS = {**Result.DIMENSIONS, **cls.DIMENSIONS}
        Result.REGISTRY[cls.__name__] = cls
        if "compare" in cls.__dict__:
            plot = functools.partial(plot_of, cls, lambda result: {result.label: result})
            cls.plot = Later(plot)  # type: ignore[assignment, method-assign]
        for old, new in cls.RENAMED.items():
            setattr(cls, old, renamed_attribute(old, new))

    @classmethod
    def renamed(cls, plain: Mapping[str, Any]) -> Mapping[str, str]:
        """New names of arrays by their old ones, in a file with these plain values."""
        return cls.RENAMED

    def keys(self) -> tuple[str, ...]:
        """Names of the measures that ``result[name]`` gives."""
        raise NotImplementedError

    def __getitem__(self, name: str) -> Estimates:
        """One measure by name: ``table["loss"].overall``, ``table["loss"].of("few")``, with its errors.

        Raises:
            UserError: there is no such measure.
        """
        choose("measure", name, self.keys())
        return Estimates(name, len(self.class_names), lambda subset: self._estimate(name, subset))

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def _estimate(self, name: str, subset: Subset) -> Estimate:
        """One measure of all samples, of a class or of a group."""
        raise NotImplementedError

    def _of_row(self, rows: np.ndarray, subset: Subset, per_class: bool, independent: bool = True) -> Estimate:
        """One of the rows (4, C) of a result per class, the mean of those of a group, or the only one of a result of
        all samples together (4, 1).

        Raises:
            UserError: all samples of a result per class, or a class of one that has none.
        """
        if per_class is (subset is None):
            told = "every class: name one, or ask" if per_class else "all samples together: ask"
            raise UserError(f"of({subset!r}): this result is of {told} for per_class={not per_class}")
        classes = 0 if subset is None else self.classes_of(subset)
        if isinstance(classes, int):
            return Estimate(*rows[:, classes].tolist())
        return mean_of([Estimate(*rows[:, c]) for c in classes], independent)

    @property
    def main(self) -> str:
        """The measure that :meth:`of` gives where none is named."""
        return self.keys()[0]

    def of(self, measure: Subset = None, subset: Subset = None) -> Any:
        """The value of a measure of all samples, of a class or of a group: ``of("loss", "few")``.

        The measure may be left out of a result that has one, or one above all: ``worst.of("few")``.

        Raises:
            UserError: an unknown measure, class or group.
        """
        if subset is None and (not isinstance(measure, str) or measure not in self.keys()):
            if isinstance(measure, str):
                choose("measure, class or group", measure, [*self.keys(), *self.groups, *self.class_names])
            measure, subset = self.main, measure
        return self[str(measure)].of(subset)

    def to_frame(self, long: bool = False) -> pd.DataFrame:
        """The numbers as a tidy table.

        The first columns are ``class`` ("all" for all samples together; a row of a group has its name), ``group`` and
        ``samples``. Then follow the numbers: beside each, where they are known, its standard error ``<name>_se``, and
        the ends of its 95 % interval ``<name>_lower`` and ``<name>_upper``.

        Args:
            long: one row for every number instead, with columns ``model``, ``seed``, ``class``, ``group``, ``samples``,
                ``measure``, ``value``, ``se``, ``low`` and ``high``, as seaborn takes them, and the axes of the result,
                such as ``radius``.
        """
        frame = self._frame()
        if not long:
            return frame
        run = self.provenance.get("run")
        return joined([of_training(self._long(frame), self.label, None if run is None else str(run))])

    def _frame(self) -> pd.DataFrame:
        raise NotImplementedError

    def _long(self, frame: pd.DataFrame) -> pd.DataFrame:
        return long_form(frame, self.keys(), self.AXES)

    def subsets(self) -> list[Subset]:
        """All samples, the groups that have classes, and the classes where samples are split at all."""
        classes = range(len(self.class_names)) if self.has_classes else ()
        return [None, *(g for g, members in self.groups.items() if members), *classes]

    def row(self, subset: Subset) -> dict[str, Any]:
        """The columns of a table that say what its numbers are of: class, group and samples."""
        if subset is None:
            return {"class": "all", "group": "", "samples": int(self.class_samples.sum())}
        classes = self.classes_of(subset)
        name, group = (self.class_names[classes], self.group_of(classes)) if isinstance(classes, int) else (subset,) * 2
        return {"class": name, "group": group, "samples": int(self.class_samples[classes].sum())}

    def to_table(self) -> pd.DataFrame:
        """The table to be read, with as many digits as errors allow: ``value [lower, upper]``, or ``value ± se``."""
        return with_errors(self.to_frame())

    def to_latex(self) -> str:
        """That table for LaTeX, with the rules of booktabs; what its marks mean stands above it in a comment."""
        return as_latex(self.to_table(), self.notes, self.symbols)

    @property
    def symbols(self) -> dict[str, str]:
        """Mathtext for the heads of columns, of measures that have a symbol."""
        return {}

    @property
    def notes(self) -> list[str]:
        """Lines below the table: what its marks mean, and what to be careful about."""
        return [*self.notes_on(self.to_frame()), *told_temperature(self.provenance)]

    def notes_on(self, frame: pd.DataFrame) -> list[str]:
        """The same of a table that looks like this result's, such as the means over several trainings."""
        return []

    def plot(self, ax: Any = None, **options: Any) -> Any:
        """Draw on ``ax``, new ones unless given; ``help(result.plot)`` lists the options of each kind of result."""
        return type(self).compare({self.label: self}, ax=ax, **options)

    @classmethod
    def compare(cls, results: Mapping[str, Any], ax: Any = None, **options: Any) -> Any:
        """Draw several results of this kind together, on common scales."""
        raise NotImplementedError

    @property
    def label(self) -> str:
        return str(self.provenance.get("label", "model"))

    @property
    def probed(self) -> Probed:
        """The identity of the probed samples, as far as it is known."""
        identity = None
        if self.sample_ids is not None:
            by = str(self.provenance.get("images", VALUES))
            identity = SampleIdentity.of_words(by, self.sample_ids, self.sample_weights)
        grouped = self.provenance.get("rows") == "groups"  # whose names stand in the place of those of classes
        return Probed(identity, self.provenance.get("data_sha256"), () if grouped else self.class_names)

    @property
    def checks(self) -> pd.DataFrame:
        """The checks of ``verify=True``: one row each, with the measured value and the one that the result implies.

        Columns: ``class``, ``group`` and ``samples`` as in every table, ``check``, ``measured``, its error
        ``measured_se``, and ``expected``.
        """
        known = (*self.class_names, *self.groups)
        rows = [
            {**self.row(c["row"] if c["row"] in known else None), "check": c["check"], "measured": c["measured"]}
            | {"measured_se": c["error"], "expected": c["expected"]}
            for c in self.provenance.get("checks", [])
        ]
        return Checks(rows)

    @property
    def has_classes(self) -> bool:
        """True if there are classes besides the only class "all", whose numbers are those of all samples."""
        return self.class_names != ONE_CLASS

    @property
    def has_labels(self) -> bool:
        """True if targets were labels: others have no accuracy, and tables leave it out."""
        return self.provenance.get("targets", "labels") == "labels"

    @property
    def rarest_class(self) -> int:
        """The class with the fewest probed samples; the last one of several."""
        present = np.where(self.class_samples > 0, self.class_samples, np.iinfo(np.int64).max)
        return int(len(present) - 1 - np.argmin(present[::-1]))

    def by_size(self) -> np.ndarray:
        """Class indices (C,) from most to fewest probed samples; of groups, the order in which they are defined."""
        if self.provenance.get("rows") == "groups":
            return np.arange(len(self.class_names))  # by training images: many classes may hold few samples
        return np.argsort(-self.class_samples, kind="stable")

    def select(self, class_values: np.ndarray, subset: Subset, overall: np.ndarray) -> np.ndarray:
        """Values of everything (None), of one class (an int or a class name), or of a group (a group name).

        Args:
            class_values: (C, ...), one value or array per class.
            overall: (...), of all samples together.
        """
        if subset is None:
            return overall
        classes = self.classes_of(subset)
        if isinstance(classes, int):
            return class_values[classes]
        return class_values[classes].mean(axis=0) if classes else np.full_like(overall, np.nan)

    def classes_of(self, subset: str | int) -> int | list[int]:
        """The index of a class, or the indices of those classes of a group that have samples.

        Raises:
            UserError: an unknown class or group.
        """
        if isinstance(subset, str) and subset in self.groups:
            return [c for c in self.groups[subset] if self.class_samples[c]]
        if isinstance(subset, str) and subset in self.class_names:
            return self.class_names.index(subset)
        if not isinstance(subset, Integral) or isinstance(subset, bool) or not 0 <= subset < len(self.class_names):
            known = ", ".join([*self.groups, *self.class_names])
            raise UserError(f"unknown class or group {subset!r}: choose one of {known}, or a class index")
        return int(subset)

    def pooled(self, class_means: np.ndarray) -> np.ndarray:
        """Means over all samples (...) from those of every class (C, ...): a class counts by its samples' weights."""
        present = self.class_samples > 0
        weights = (self.class_samples if self.class_weights is None else self.class_weights)[present]
        return np.tensordot(weights / weights.sum(), class_means[present], 1)

    def group_of(self, class_index: int) -> str:
        """The group of a class, or an empty string; of a result per group, whose rows are the groups, itself."""
        if self.provenance.get("rows") == "groups":
            return self.class_names[class_index]
        return next((g for g, classes in self.groups.items() if class_index in classes), "")

    def to_dataset(self) -> xr.Dataset:
        """The same numbers as an xarray data set; plain values as JSON in its attributes.

        Coordinates are the names of classes, groups, measures and layers, and the numbers of radii and draws.
        """
        arrays, plain = {}, {}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name in self.DIMENSIONS and value is not None:
                names = self.DIMENSIONS[f.name]
                arrays[f.name] = (names[len(names) - np.ndim(value) :], np.asarray(value))
            else:
                plain[f.name] = value
        data = xr.Dataset(arrays, attrs={"sharpness_result": type(self).__name__, "fields": json.dumps(plain)})
        return data.assign_coords({name: where for name in map(str, data.dims) if (where := self._along(name, data))})

    def _along(self, dimension: str, data: xr.Dataset) -> list[Any]:
        """The names or numbers of the places along a dimension; empty where there are none."""
        if dimension in ("draw", "run"):
            return list(range(data.sizes[dimension]))
        names = list(getattr(self, self.COORDINATES.get(dimension, ""), ()))
        return names if len(names) == data.sizes[dimension] and any(map(str, names)) else []

    def save(self, path: str | Path) -> Path:
        """Write one NetCDF file, which xarray opens; read it back with :func:`~sharpness.load_result`."""
        return write_dataset(self.to_dataset(), path)

    def validate(self) -> None:
        """Check plain values as a file gives them.

        Raises:
            Refused: they make no sense, or do not fit the arrays.
        """
        k, checks = self.provenance.get("num_parameters"), self.provenance.get("checks", [])
        if k is not None and type(k) is not int:
            raise Refused("counts parameters that are no number: probe again")
        if self.sample_ids is not None and self.sample_ids.shape[1] != 3:
            raise Refused("tells its samples apart in an unknown way: probe again")
        if not isinstance(checks, list) or not all(isinstance(check, dict) for check in checks):
            raise Refused("has checks that are none: probe again")

    def __repr__(self) -> str:
        k, n = self.provenance.get("num_parameters"), int(self.class_samples.sum())
        return f"{type(self).__name__}({printable(self.label)}: {self._summary()}; {n} samples, k={k})"

    def _summary(self) -> str:
        return ""

    def _repr_html_(self) -> str:
        told = f"<p><b>{type(self).__name__}</b> {escape(f'{self.label}: {self._summary()}')}</p>"
        return told + as_html(self.to_table(), self.ROWS, self.notes)
