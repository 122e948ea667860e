"""Measures from a function of an objective, called for all samples and for every class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpness.errors import UserError
from sharpness.objective import Objective
from sharpness.objective.loss_identity import digest_of
from sharpness.probes.measures.measure import Measure, NoSettings, Passes, Subject
from sharpness.probes.shared.column import Column, sample_freedom
from sharpness.probes.shared.comparison import class_fields, common_fields
from sharpness.probes.shared.work import Arrays, Work
from sharpness.progress import progress
from sharpness.results.estimates import Estimate, mean_of
from sharpness.statistics.estimate import interval

#: Result of a function: a value, or a value and its standard error.
Found = float | tuple[float, float]


def measure_of(
    name: str, compute: Callable[[Objective], Found], title: str = "", over: str = "images", **described: Any
) -> Measure:
    """Make a measure of a function; see :func:`~sharpness.register_measure` for the arguments.

    Raises:
        UserError: ``compute`` cannot be called.
    """
    if not callable(compute):
        raise UserError(f"measure {name!r}: compute={compute!r}: give a function of an objective")
    made = OfFunction(name, compute, over)
    return Measure(
        name, made, passes=_passes, title=title or name.replace("_", " ").capitalize(), version=made.version,
        **described,
    )  # fmt: skip


def _passes(settings: NoSettings) -> Passes:
    """A guess at the cost of a user's function."""
    return Passes(forwards=2)


@dataclass(frozen=True)
class OfFunction:
    """Computes the column of a function of an objective; can be pickled if the function can."""

    name: str
    function: Callable[[Objective], Found]
    over: str

    @property
    def version(self) -> str:
        return version_of(self.function)

    def __call__(self, subject: Subject, settings: NoSettings) -> dict[str, Column]:
        """Call the function for all samples and for every class with samples."""
        objective = subject.objective
        told = {"measure": self.name, "version": self.version, "value": f"{subject.base.mean:.4g}"}
        key = {**common_fields(objective, **told)["provenance"], **class_fields(objective)}
        numbers = np.full((objective.num_classes + 1, 2), np.nan)
        present = [int(c) for c in np.flatnonzero(objective.class_samples)]
        rows = [*present, len(numbers) - 1] if len(present) > 1 else present

        def of_row(row: int) -> Arrays:
            part = objective.restrict(row) if row < objective.num_classes else objective
            return {"numbers": np.array(_computed(self.name, self.function, part))}

        with progress(len(rows), self.name, "rows") as bar:
            for row, found in Work(subject.resume, key).rows(rows, of_row):
                numbers[row] = found["numbers"]
                bar.update()
        if len(present) == 1:  # all samples are of that class
            numbers[-1] = numbers[present[0]]
        return {self.name: _column(objective, numbers, self.over)}


def _computed(name: str, compute: Callable[[Objective], Found], objective: Objective) -> tuple[float, float]:
    """Call the function with gradients enabled, and check that it leaves the model unchanged.

    Raises:
        UserError: the function did not return a number, or changed the model.
    """
    before, gradients = objective.model_sha256(), [p.grad for p in objective.model.parameters()]
    objective.model.zero_grad()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            found = compute(objective)
    finally:
        for p, gradient in zip(objective.model.parameters(), gradients, strict=True):
            p.grad = gradient
    if objective.model_sha256() != before:
        raise UserError(f"measure {name!r}: compute changed the model: move weights inside objective.at(displacement)")
    return numbers_of(name, found)


def _column(objective: Objective, numbers: np.ndarray, over: str) -> Column:
    values, errors = numbers.T
    if over == "images":
        ends = interval(values, errors, sample_freedom(objective))
        return Column.of_images(objective, values, errors, ends)
    # Classes may share draws: the mean of their errors is an upper bound on the error of their mean.
    members = objective.present_groups.values()
    means = [mean_of([Estimate(*numbers[c]) for c in classes], independent=False)[:2] for classes in members]
    values, errors = np.concatenate([numbers, np.reshape(means, (-1, 2))]).T
    return Column(Estimate(values, errors, *interval(values, errors)), over)


def numbers_of(name: str, found: Any) -> tuple[float, float]:
    """The value and the standard error that a function returned; NaN for no standard error.

    Raises:
        UserError: the function returned something else.

    >>> numbers_of("norm", (2.0, 0.5)), numbers_of("norm", 3)
    ((2.0, 0.5), (3.0, nan))
    """
    parts = found if isinstance(found, tuple | list) else (found,)
    try:
        value, error = (float(p.detach() if isinstance(p, Tensor) else p) for p in (*parts, np.nan)[:2])
        if len(parts) in (1, 2) and not error < 0:
            return value, error
    except (TypeError, ValueError, RuntimeError):  # not a number, or a tensor of several numbers
        pass
    raise UserError(
        f"measure {name!r}: compute returned {str(found)[:80]!r}: return a number, or (number, standard error)"
    )


def version_of(function: Any) -> str:
    """Digest a function's code, defaults and enclosed values, but not the values of its global names.

    Saved tables are only reused if the digest is the same.
    """
    code = getattr(function, "__code__", None)
    if code is None:
        return digest_of(function) or repr(function)
    enclosed = [cell.cell_contents for cell in function.__closure__ or ()]
    content = [code, function.__defaults__, function.__kwdefaults__, enclosed]
    return digest_of(content) or repr(function)
