"""Base class of results: frozen, tabular, saved as one NetCDF file, with provenance."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd
import xarray as xr

from sharpness.errors import UserError, choose, printable
from sharpness.identity import VALUES, SampleIdentity
from sharpness.renamed import renamed_attribute
from sharpness.results.estimates import Estimate, Estimates, Subset, mean_of
from sharpness.results.picture import Later, plot_of
from sharpness.results.same import Probed
from sharpness.results.split import Split
from sharpness.results.tables import Checks, joined, long_form, of_training
from sharpness.results.tabular import Tabular
from sharpness.results.words import told_circumstances
from sharpness.untrusted.refused import Refused


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Result(Split, Tabular):
    """Numbers of one probe of one model.

    Attributes:
        class_names: names of the C classes.
        class_samples: (C,) samples of each class that were probed.
        class_weights: (C,) the sum of their weights; None in files from before it was kept, which had equal ones.
        groups: named sets of class indices. A group's value is the mean of the values of its classes that have samples.
        provenance: settings and versions that produced the numbers, as plain values.
        sample_ids: (n, 3) class and content of every sample, see :class:`~sharpness.data.SampleIdentity`; None in files
            from before they were kept.
        sample_weights: (n,) weights of the samples, or None if all are equal.
    """

    #: For every array, the names of its dimensions, from its annotation. Everything else is a plain value.
    DIMENSIONS: ClassVar[dict[str, tuple[str, ...]]] = {}
    #: New names of fields, by their old names in files of the previous version.
    RENAMED: ClassVar[dict[str, str]] = {}
    #: The first dimension, if arrays lack it in results for all samples together.
    OPTIONAL_DIMENSION: ClassVar[str | None] = None
    #: The attribute that names or numbers the entries along each dimension.
    COORDINATES: ClassVar[dict[str, str]] = {
        "class": "class_names", "group": "groups", "measure": "names", "layer": "layers", "mark": "mark_names",
        "radius": "radii", "factor": "factors", "rank": "ranks", "column": "columns",
    }  # fmt: skip
    #: Attributes, and settings in the provenance, that must agree for results to be compared.
    COMPARED: ClassVar[tuple[str, ...]] = ()
    SETTINGS: ClassVar[tuple[str, ...]] = ("kind", "match_samples")
    REGISTRY: ClassVar[dict[str, type[Result]]] = {}
    #: Columns of the table that distinguish numbers of the same measure and class.
    AXES: ClassVar[tuple[str, ...]] = ()
    #: Maximum number of rows of a table in a notebook.
    ROWS: ClassVar[int] = 20

    class_names: tuple[str, ...]
    class_samples: Annotated[np.ndarray, "class"]
    groups: dict[str, tuple[int, ...]]
    provenance: dict[str, Any]
    class_weights: Annotated[np.ndarray | None, "class"] = None
    sample_ids: Annotated[np.ndarray | None, "sample", "word"] = None
    sample_weights: Annotated[np.ndarray | None, "sample"] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # A user's own result may list dimensions in a table, as all results did before annotations held them.
        inherited: dict[str, tuple[str, ...]] = super(cls, cls).DIMENSIONS  # type: ignore[misc]
        cls.DIMENSIONS = inherited | (cls.__dict__.get("DIMENSIONS") or _dimensions(cls))
        Result.REGISTRY[cls.__name__] = cls
        if "compare" in cls.__dict__:
            plot = functools.partial(plot_of, cls, lambda result: {result.label: result})
            cls.plot = Later(plot)  # type: ignore[assignment, method-assign]
        for old, new in cls.RENAMED.items():
            setattr(cls, old, renamed_attribute(old, new))

    @classmethod
    def renamed(cls, plain: Mapping[str, Any]) -> Mapping[str, str]:
        """New names of arrays, by their old names in a file with these plain values."""
        return cls.RENAMED

    def keys(self) -> tuple[str, ...]:
        """Names of the measures, as accepted by ``result[name]``."""
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
        """Return one measure for all samples, a class or a group."""
        raise NotImplementedError

    def _of_row(self, rows: np.ndarray, subset: Subset, per_class: bool, independent: bool = True) -> Estimate:
        """Return the estimate for a subset from ``rows``: value, standard error and both ends, (4, C) or (4, 1).

        Per class, the subset is a class or a group, whose classes are averaged. Otherwise the only column is for all
        samples together.

        Raises:
            UserError: all samples of a result per class, or a class of a result for all samples together.
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
        """The measure that :meth:`of` returns if none is named."""
        return self.keys()[0]

    def of(self, measure: Subset = None, subset: Subset = None) -> Any:
        """The value of a measure for all samples, a class or a group: ``of("loss", "few")``.

        The measure may be omitted if the result has only one, or one main measure: ``worst.of("few")``.

        Raises:
            UserError: an unknown measure, class or group.
        """
        if measure is None:
            measure = self.main
        elif subset is None and (not isinstance(measure, str) or measure not in self.keys()):
            if isinstance(measure, str):
                choose("measure, class or group", measure, [*self.keys(), *self.groups, *self.class_names])
            measure, subset = self.main, measure
        return self[str(measure)].of(subset)

    def to_frame(self, long: bool = False) -> pd.DataFrame:
        """The numbers as a tidy table.

        The first columns are ``class`` ("all" for all samples together, or the name of a group), ``group`` and
        ``samples``. Then follow the numbers, each with its standard error ``<name>_se`` and the ends of its 95 %
        interval, ``<name>_lower`` and ``<name>_upper``, if they are known.

        Args:
            long: return one row per number instead, in seaborn's long form, with columns ``model``, ``seed``,
                ``class``, ``group``, ``samples``, ``measure``, ``value``, ``se``, ``low`` and ``high``, and the axes of
                the result, such as ``radius``.
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

    def _numbers_read(self) -> pd.DataFrame:
        return self.to_frame()

    @property
    def _first(self) -> Result:
        return self

    @property
    def symbols(self) -> dict[str, str]:
        """Mathtext for the column heads of measures that have a symbol."""
        return {}

    @property
    def notes(self) -> list[str]:
        """Lines below the table: the meaning of its marks, and warnings."""
        return [*self.notes_on(self.to_frame()), *told_circumstances(self.provenance)]

    def notes_on(self, frame: pd.DataFrame) -> list[str]:
        """The notes for a table with the columns of this result's, such as the means over several trainings."""
        return []

    def plot(self, ax: Any = None, **options: Any) -> Any:
        """Plot on ``ax``, by default a new one; ``help(result.plot)`` lists the options of each kind of result."""
        return type(self).compare({self.label: self}, ax=ax, **options)

    @classmethod
    def compare(cls, results: Mapping[str, Any], ax: Any = None, **options: Any) -> Any:
        """Plot several results of this kind together, on common scales."""
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
        return Probed(identity, self.provenance.get("data_sha256"), () if self.of_groups else self.class_names)

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
    def has_labels(self) -> bool:
        """True if targets were labels; otherwise there is no accuracy, and tables omit it."""
        return self.provenance.get("targets", "labels") == "labels"

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
        """The names or numbers of the entries along a dimension; empty if there are none."""
        if dimension in ("draw", "run"):
            return list(range(data.sizes[dimension]))
        names = list(getattr(self, self.COORDINATES.get(dimension, ""), ()))
        return names if len(names) == data.sizes[dimension] and any(map(str, names)) else []

    def validate(self) -> None:
        """Check plain values that were read from a file.

        Raises:
            Refused: invalid values, or values that do not match the arrays.
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

    def _heading(self) -> str:
        return f"{self.label}: {self._summary()}"


def _dimensions(kind: type[Result]) -> dict[str, tuple[str, ...]]:
    """The dimensions of all arrays, from their annotations; ``...`` stands for the axes of a landscape's grid."""
    hints = get_type_hints(kind, include_extras=True)
    parts = {name: get_args(hint)[1:] for name, hint in hints.items() if get_origin(hint) is Annotated}
    grid = kind.AXES[::-1]
    return {name: tuple(d for part in of for d in (grid if part is ... else (part,))) for name, of in parts.items()}


Result.DIMENSIONS = _dimensions(Result)
