"""The columns of the per-class table, each from the probe that it summarises."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sharpness.engine import SampleSums, mean_error, share_error
from sharpness.errors import UserError, choose, require_whole
from sharpness.objective import Objective
from sharpness.probes.eigenvalues import eigenvalues
from sharpness.probes.perturbation import random_perturbation
from sharpness.probes.trace import trace
from sharpness.probes.worst_case import worst_case

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
    """One measure: of everything, of every class (C,), and the standard errors of these and of every group's mean."""

    overall: float
    overall_error: float
    values: np.ndarray
    errors: np.ndarray
    group_errors: np.ndarray  # (G,), NaN where classes are independent


def columns_of(
    objective: Objective, base: SampleSums, settings: Settings, resume: Path | None, label: str | None
) -> dict[str, Column]:
    """The columns that were asked for, and those that come with them.

    Args:
        base: the losses and answers at the centre.
        label: of the model, for warnings.
    """
    names, independent = set(settings.measures), np.full(len(objective.groups), np.nan)
    columns = _over_samples(objective, base, independent)
    if {"lambda_max", "lambda_min"} & names:
        columns |= _ends(objective, settings, resume, label, independent)
    if "trace" in names:
        classes = trace(objective, True, settings.probes, settings.seed, resume=resume)
        shared = independent if classes.group_errors is None else classes.group_errors[0]
        number, its_error = classes.values[0, 0], classes.errors[0, 0]
        if objective.num_classes > 1:
            overall = trace(objective, False, settings.probes, settings.seed, resume=resume)
            number, its_error = overall.overall[0], overall.overall_errors[0]
        columns["trace"] = Column(float(number), float(its_error), classes.values[0], classes.errors[0], shared)
    if "random_rise" in names:
        found = random_perturbation(objective, [settings.radius], settings.draws, seed=settings.seed, resume=resume)
        mean, error = (float(numbers[0]) for numbers in found.rise())
        rises = np.array([found.rise(c) for c in range(objective.num_classes)])[..., 0]
        shared = np.array([found.rise(group)[1][0] for group in objective.groups])
        columns["random_rise"] = Column(mean, error, rises[:, 0], rises[:, 1], shared)
    if "worst_rise" in names:
        worst = worst_case(objective, settings.rho, resume=resume)
        columns["worst_rise"] = Column(
            float(worst.overall[2]), float(worst.overall_errors[2]), worst.values[2], worst.errors[2], independent
        )
    return columns


def _over_samples(objective: Objective, base: SampleSums, independent: np.ndarray) -> dict[str, Column]:
    """Loss and accuracy."""
    labels, weights = objective.classes.numpy(), base.rows[1]
    errors = np.full((2, objective.num_classes), np.nan)
    for c in np.flatnonzero(objective.class_counts):
        chosen = labels == c
        errors[0, c] = mean_error(base.losses[chosen], weights[chosen])
        errors[1, c] = share_error(base.answers[chosen], weights[chosen])
    loss, accuracy = mean_error(base.losses, weights), share_error(base.answers, weights)
    return {
        "loss": Column(base.mean, loss, base.class_means, errors[0], independent),
        "accuracy": Column(base.accuracy, accuracy, base.class_accuracies, errors[1], independent),
    }


def _ends(
    objective: Objective, settings: Settings, resume: Path | None, label: str | None, independent: np.ndarray
) -> dict[str, Column]:
    """The largest and the smallest eigenvalue; what has not converged is NaN, and named in a warning."""
    split = (False, True) if objective.num_classes > 1 else (True,)  # one class is all samples
    found = [
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
        for per_class in split
    ]
    overall, classes = found[0], found[-1]
    present = np.flatnonzero(objective.class_counts) if len(found) > 1 else ()
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
        value, values = (np.where(s.converged, s.values, np.nan)[..., end] for s in (overall, classes))
        error = overall.errors[..., end].item()
        columns[name] = Column(value.item(), error, values, classes.errors[..., end], independent)
    return columns
