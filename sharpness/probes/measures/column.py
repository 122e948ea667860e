"""One column of the table: a measure of every class and of all samples, with its errors."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sharpness.engine import SampleSums
from sharpness.objective import Objective
from sharpness.probes.shared.intervals import group_ends
from sharpness.results import MeasureResult


@dataclass(frozen=True)
class Subject:
    """A model whose table is made.

    Attributes:
        base: losses and answers at its weights.
        names: measures of the table: what gives several computes those.
        resume: folder of unfinished work.
        label: of the model, for warnings.
        executor: does what can be done side by side, in threads of this process unless given.
    """

    objective: Objective
    base: SampleSums
    names: tuple[str, ...] = ()
    resume: Path | None = None
    label: str | None = None
    executor: Executor | None = None


@dataclass(frozen=True)
class Column:
    """A measure of the C classes and, last, of all samples: (C + 1,).

    Attributes:
        ends: lower and upper ends of 95 % intervals, (2, C + 1).
        over: what errors and intervals are over, in words.
        group_errors: standard errors (G,) of the groups' means, NaN where classes are independent.
        group_ends: lower and upper ends of the groups' intervals, (2, G).
    """

    values: np.ndarray
    errors: np.ndarray
    ends: np.ndarray
    over: str
    group_errors: np.ndarray
    group_ends: np.ndarray

    @classmethod
    def of_images(cls, objective: Objective, values: np.ndarray, errors: np.ndarray, ends: np.ndarray) -> Column:
        """A column whose errors are over images, of which every class has its own."""
        unknown = np.full(len(objective.groups), np.nan)
        return cls(values, errors, ends, "images", unknown, group_ends(objective, values, ends))

    @classmethod
    def of_result(cls, found: MeasureResult, name: str) -> Column:
        """A column from the table of another probe."""
        m = found.names.index(name)

        def both(of_classes: np.ndarray | None, of_all: np.ndarray | None) -> np.ndarray:
            assert of_classes is not None and of_all is not None
            return np.append(of_classes[m], of_all[m])

        ends = np.stack([both(found.lower, found.overall_lower), both(found.upper, found.overall_upper)])
        unknown = np.full((3, len(found.groups)), np.nan)
        of_groups = [found.group_standard_errors, found.group_lower, found.group_upper]
        known = [row if of_group is None else of_group[m] for row, of_group in zip(unknown, of_groups, strict=True)]
        return cls(
            both(found.values, found.overall), both(found.standard_errors, found.overall_standard_errors), ends,
            found.over[m], known[0], np.stack(known[1:]),
        )  # fmt: skip
