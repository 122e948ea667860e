"""The columns of the per-class table, each from the probe that it summarises."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sharpness.curvature import effective_samples, interval, wilson
from sharpness.engine import SampleSums, mean_error, share_error
from sharpness.errors import UserError, choose, require_whole
from sharpness.objective import Objective
from sharpness.probes.curvature.eigenvalues import eigenvalues
from sharpness.probes.curvature.trace import trace
from sharpness.probes.perturbations.random import random_perturbation
from sharpness.probes.perturbations.worst_case import worst_case
from sharpness.probes.shared.intervals import group_ends, sample_freedom
from sharpness.results import MeasureResult

MEASURES = ("accuracy", "loss", "lambda_max", "lambda_min", "trace", "random_rise", "worst_rise")
logger = logging.getLogger("sharpness")


@dataclass(frozen=True)
class Settings:
    """What is measured, and how: the arguments of :func:`~sharpness.measure`."""

    measures: tuple[str, ...]
    radius: float
    draws: int
    rho: float
    probes: int
    tol: float
    max_iterations: int
    seed: int

    @classmethod
    def of(cls, measures: str | Sequence[str], *numbers: float) -> Settings:
        """Those given, in the order of the table.

        Raises:
            UserError: an unknown measure or none, or a number out of range.
        """
        names = [name.strip() for name in (measures.split(",") if isinstance(measures, str) else measures)]
        for name in names:
            choose("measure", name, MEASURES)
        if not names:
            raise UserError(f"no measures: choose some of {', '.join(MEASURES)}")
        found = cls(tuple(m for m in MEASURES if m in names), *numbers)  # type: ignore[arg-type]
        for name in ("radius", "rho", "tol"):
            if not 0 < getattr(found, name) < np.inf:
                raise UserError(f"{name}={getattr(found, name)}: give a finite number above 0")
        for name in ("draws", "probes"):
            require_whole(name, getattr(found, name), 2, ", for a standard error")
        require_whole("max_iterations", found.max_iterations, 1)
        require_whole("seed", found.seed)
        return found

    def of_answers(self, has_answers: bool, usual: bool) -> Settings:
        """The same without accuracy, where no answer is right or wrong and it was not asked for by name.

        Raises:
            UserError: it was.
        """
        if has_answers or "accuracy" not in self.measures:
            return self
        if not usual:
            raise UserError(
                "no accuracy: it compares the largest of several outputs with an integer label; leave it out"
            )
        return replace(self, measures=tuple(m for m in self.measures if m != "accuracy"))


@dataclass(frozen=True)
class Column:
    """One measure, of every class and, last, of everything: (C + 1,).

    Attributes:
        ends: lower and upper ends of their intervals of 95 %, (2, C + 1).
        over: what errors and intervals are over, in words.
        group_errors: standard errors (G,) of the groups' means, NaN where classes are independent.
        group_ends: likewise (2, G).
    """

    values: np.ndarray
    errors: np.ndarray
    ends: np.ndarray
    over: str
    group_errors: np.ndarray
    group_ends: np.ndarray

    @classmethod
    def of(
        cls, objective: Objective, values: np.ndarray, errors: np.ndarray, ends: np.ndarray, over: str = "images"
    ) -> Column:
        """One whose classes are independent."""
        unknown = np.full(len(objective.groups), np.nan)
        return cls(values, errors, ends, over, unknown, group_ends(objective, values, ends))

    @classmethod
    def joined(cls, overall: MeasureResult, classes: MeasureResult, m: int = 0) -> Column:
        """Measure m of the classes, and of everything, which another result or the same one has."""

        def both(of_classes: Any, of_all: Any) -> np.ndarray:
            return np.append(of_classes[m], of_all[m])

        known = np.full(len(classes.groups), np.nan)
        if classes.group_standard_errors is not None:
            known = classes.group_standard_errors[m]
        return cls(
            both(classes.values, overall.overall),
            both(classes.standard_errors, overall.overall_standard_errors),
            np.stack([both(classes.lower, overall.overall_lower), both(classes.upper, overall.overall_upper)]),
            classes.over[m],
            known,
            np.full((2, 0), np.nan) if not len(known) else np.stack([classes.group_lower[m], classes.group_upper[m]]),  # type: ignore
        )


def columns_of(
    objective: Objective, base: SampleSums, settings: Settings, resume: Path | None, label: str | None
) -> dict[str, Column]:
    """The columns that were asked for, and those that come with them.

    Args:
        base: the losses and answers at the centre.
        label: of the model, for warnings.
    """
    names = set(settings.measures)
    columns = _over_samples(objective, base)
    if {"lambda_max", "lambda_min"} & names:
        columns |= _ends(objective, settings, resume, label)
    if "trace" in names:
        overall, classes = (trace(objective, c, settings.probes, settings.seed, resume=resume) for c in (False, True))
        columns["trace"] = Column.joined(overall, classes)
    if "random_rise" in names:
        found = random_perturbation(objective, [settings.radius], settings.draws, seed=settings.seed, resume=resume)
        subsets = [*range(objective.num_classes), None, *objective.groups]
        mean, error, *ends = np.array([[*found.rise(s), *found.interval(s)] for s in subsets])[..., 0].T
        groups = objective.num_classes + 1
        columns["random_rise"] = Column(
            mean[:groups], error[:groups], np.stack(ends)[:, :groups], f"{settings.draws} draws",
            error[groups:], np.stack(ends)[:, groups:],
        )  # fmt: skip
    if "worst_rise" in names:
        worst = worst_case(objective, settings.rho, resume=resume)
        columns["worst_rise"] = Column.joined(worst, worst, m=2)
    return columns


def _over_samples(objective: Objective, base: SampleSums) -> dict[str, Column]:
    """Loss and accuracy."""
    labels, weights = objective.classes.numpy(), base.rows[1]
    rows = [labels == c for c in range(objective.num_classes)] + [np.ones(len(labels), dtype=bool)]
    errors = np.array([mean_error(base.losses[r], weights[r]) for r in rows])
    share_errors = np.array([share_error(base.answers[r], weights[r]) for r in rows])
    loss, accuracy = np.append(base.class_means, base.mean), np.append(base.class_accuracies, base.accuracy)
    shares = wilson(accuracy, [effective_samples(weights[r]) for r in rows])
    losses = interval(loss, errors, sample_freedom(objective), keeps_sign=bool((base.losses >= 0).all()))
    return {
        "loss": Column.of(objective, loss, errors, losses),
        "accuracy": Column.of(objective, accuracy, share_errors, shares),
    }


def _ends(objective: Objective, settings: Settings, resume: Path | None, label: str | None) -> dict[str, Column]:
    """The largest and the smallest eigenvalue; what has not converged is NaN, and named in a warning."""
    overall, classes = (
        eigenvalues(
            objective,
            1,
            "both",
            per_class,
            tol=settings.tol,
            max_iterations=settings.max_iterations,
            seed=settings.seed,
            keep_vectors=False,
            standard_errors=True,
            resume=resume,
        )
        for per_class in (False, True)
    )
    assert overall.standard_errors is not None and classes.standard_errors is not None
    present = np.flatnonzero(objective.class_counts)
    missing = [] if overall.converged.all() else ["all samples"]
    missing += [objective.class_names[c] for c in present if not classes.converged[c].all()]
    if missing:
        logger.warning(
            "%s: not converged to tol=%g in max_iterations=%s, and left out: eigenvalues of %s",
            label or "the model",
            settings.tol,
            settings.max_iterations,
            ", ".join(missing),
        )
    columns = {}
    for name, end in (("lambda_max", 0), ("lambda_min", -1)):
        values, errors = (
            np.append(c[..., end], o[..., end])
            for c, o in (
                [np.where(s.converged, s.values, np.nan) for s in (classes, overall)],
                [classes.standard_errors, overall.standard_errors],
            )
        )
        bounds = interval(values, errors, sample_freedom(objective), keeps_sign=True)
        columns[name] = Column.of(objective, values, errors, bounds)
    return columns
