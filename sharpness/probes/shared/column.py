"""One column of a table: a measure for every class, all samples and every group, with its errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sharpness.objective import Objective
from sharpness.results import MeasureResult, Result
from sharpness.results.estimates import Estimate, mean_of


def sample_freedom(objective: Objective) -> np.ndarray:
    """Degrees of freedom of means over the images of every class and, last, over all images: (C + 1,)."""
    return np.append(objective.class_samples, objective.num_samples) - 1


class Column(NamedTuple):
    """A measure for the C classes, then for all samples, then for the means of the G groups.

    Attributes:
        rows: the estimates, arrays of shape (C + 1 + G,).
        over: what errors and intervals are over, in words, such as ``"images"``.
    """

    rows: Estimate
    over: str

    @classmethod
    def of_images(cls, objective: Objective, values: np.ndarray, errors: np.ndarray, ends: np.ndarray) -> Column:
        """Make a column whose errors are over images, so that classes are independent.

        Args:
            values: (C + 1,) values for the classes and for all samples.
            errors: (C + 1,) their standard errors.
            ends: (2, C + 1) lower and upper ends of their intervals.
        """
        table = np.stack([values, errors, *ends])
        groups = [mean_of([Estimate(*table[:, c]) for c in members]) for members in objective.present_groups.values()]
        return cls(Estimate(*np.concatenate([table, np.reshape(groups, (-1, 4)).T], axis=1)), "images")

    @classmethod
    def of_result(cls, found: Result, name: str, over: str) -> Column:
        """Make a column from a measure of another probe's result."""
        subsets = (*range(len(found.class_names)), None, *found.groups)
        rows = [np.ravel(found._estimate(name, subset)) for subset in subsets]
        return cls(Estimate(*np.array(rows, dtype=float).T), over)


def table_of(columns: Mapping[str, Column], train_counts: Sequence[int] | np.ndarray, **fields: Any) -> MeasureResult:
    """Combine columns into a table.

    Args:
        columns: columns by the name of their measure.
        train_counts: (C,) training images of each class, -1 if unknown.
        fields: other fields of the result, see :func:`~sharpness.probes.shared.comparison.common_fields`.
    """
    classes = len(fields["class_names"])
    numbers = np.stack([np.stack(column.rows) for column in columns.values()], axis=1)  # (4, M, C + 1 + G)
    parts = {"": numbers[..., :classes], "overall_": numbers[..., classes], "group_": numbers[..., classes + 1 :]}
    arrays = {
        prefix + name: array
        for prefix, part in parts.items()
        for name, array in zip(("standard_errors", "lower", "upper"), part[1:], strict=True)
        if array.size
    }
    return MeasureResult(
        names=tuple(columns),
        values=parts[""][0],
        overall=parts["overall_"][0],
        over=tuple(column.over for column in columns.values()),
        train_counts=np.asarray(train_counts),
        **arrays,
        **fields,
    )
