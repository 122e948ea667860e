"""The per-class table of a model: how flat is this minimum, for every class?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sharpness.checkpoints import Checkpoint, load_checkpoint
from sharpness.errors import UserError, choose
from sharpness.objective import Objective
from sharpness.probes.comparison import common_fields
from sharpness.probes.eigenvalues import eigenvalues
from sharpness.probes.perturbation import random_perturbation
from sharpness.probes.subjects import checkpoint_objective, known_train_counts
from sharpness.probes.trace import trace
from sharpness.probes.worst_case import worst_case
from sharpness.results import Comparison, MeasureResult

MEASURES = ("accuracy", "loss", "lambda_max", "lambda_min", "trace", "random_rise", "worst_rise")
DEFAULT = ("accuracy", "loss", "lambda_max", "lambda_min", "random_rise", "worst_rise")


def measure(
    subject: Objective | Checkpoint | str | Path | Mapping[str, Any],
    measures: Sequence[str] = DEFAULT,
    *,
    train_counts: Sequence[int] | None = None,
    radius: float = 0.1,
    draws: int = 5,
    rho: float = 0.05,
    probes: int = 30,
    tol: float = 1e-3,
    max_iterations: int = 100,
    seed: int = 0,
    **options: Any,
) -> MeasureResult | Comparison[MeasureResult]:
    r"""One row per class, one column per measure, each random one with its standard error.

    ==============  ===========================================================================================
    accuracy        share of right answers
    loss            L_c
    lambda_max      largest eigenvalue of the Hessian of L_c
    lambda_min      smallest (most negative) eigenvalue of the Hessian of L_c
    trace           trace of the Hessian of L_c, by ``probes`` random vectors
    random_rise     mean rise of L_c at relative distance ``radius`` in ``draws`` filter-normalised directions
    worst_rise      rise of L_c after one ascent step of length ``rho``
    ==============  ===========================================================================================

    Args:
        subject: an objective, a checkpoint (object or path), or ``{label: one of these}``, to compare.
        train_counts: (C,) training images per class; known for checkpoints that record them and for named data.
        options: of :func:`checkpoint_objective`, for checkpoints.

    Raises:
        UserError: an unknown measure, or what the probes refuse. An eigenvalue that has not converged becomes NaN.
    """
    for name in measures:
        choose("measure", name, MEASURES)
    settings: dict[str, Any] = {
        "radius": radius,
        "draws": draws,
        "rho": rho,
        "probes": probes,
        "tol": tol,
        "max_iterations": max_iterations,
        "seed": seed,
    }
    if isinstance(subject, Mapping):
        tables: Comparison = Comparison()
        for name, one in subject.items():
            tables[name] = measure(one, measures, train_counts=train_counts, **settings, **options)
        return tables
    label = None
    if not isinstance(subject, Objective):
        checkpoint = subject if isinstance(subject, Checkpoint) else load_checkpoint(subject)
        if train_counts is None:
            train_counts = known_train_counts(checkpoint, options)
        label = checkpoint.label
        subject = checkpoint_objective(checkpoint, **options)
    elif options:
        raise UserError(f"options {sorted(options)} are for checkpoints: give them to the Objective")
    names = tuple(m for m in MEASURES if m in measures)
    columns = _columns(subject, names, radius, draws, rho, probes, tol, max_iterations, seed)
    result = MeasureResult(
        names=names,
        overall=np.array([columns[m][0] for m in names]),
        overall_errors=np.array([columns[m][1] for m in names]),
        values=np.stack([columns[m][2] for m in names]),
        errors=np.stack([columns[m][3] for m in names]),
        train_counts=np.array(train_counts) if train_counts is not None else np.full(subject.num_classes, -1),
        **common_fields(subject, probe="measure", **settings),
    )
    if label is not None:
        result.provenance["label"] = label
    return result


#: Overall value and standard error, and the same per class.
Column = tuple[float, float, np.ndarray, np.ndarray]


def _columns(
    objective: Objective,
    names: Sequence[str],
    radius: float,
    draws: int,
    rho: float,
    probes: int,
    tol: float,
    max_iterations: int,
    seed: int,
) -> dict[str, Column]:
    nothing = np.full(objective.num_classes, np.nan)
    base = objective.check()
    columns: dict[str, Column] = {
        "loss": (base.mean, np.nan, base.class_means, nothing),
        "accuracy": (float(base.correct.sum() / base.count.sum()), np.nan, base.class_accuracies, nothing),
    }
    if {"lambda_max", "lambda_min"} & set(names):
        spectra = [
            eigenvalues(
                objective,
                1,
                "both",
                per_class,
                tol=tol,
                max_iterations=max_iterations,
                seed=seed,
                keep_vectors=False,
            )
            for per_class in (False, True)
        ]
        for m, rank in (("lambda_max", 0), ("lambda_min", -1)):
            overall, classes = (np.where(s.converged, s.values, np.nan)[..., rank] for s in spectra)
            columns[m] = (float(overall), np.nan, classes, nothing)
    if "trace" in names:
        overall_trace, classes_trace = (trace(objective, c, probes, seed) for c in (False, True))
        columns["trace"] = (
            float(overall_trace.overall[0]),
            float(overall_trace.overall_errors[0]),
            classes_trace.values[0],
            classes_trace.errors[0],
        )
    if "random_rise" in names:
        perturbed = random_perturbation(objective, [radius], draws, seed=seed)
        rises = [perturbed.rise(s) for s in (None, *range(objective.num_classes))]
        mean, error = (np.array([r[i][0] for r in rises]) for i in (0, 1))
        columns["random_rise"] = (float(mean[0]), float(error[0]), mean[1:], error[1:])
    if "worst_rise" in names:
        worst = worst_case(objective, rho)
        columns["worst_rise"] = (float(worst.overall[2]), np.nan, worst.values[2], nothing)
    return columns
