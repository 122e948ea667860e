"""The per-class table of a model: how flat is this minimum, for every class?"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sharpness.checkpoints import Checkpoint, find_checkpoints, load_checkpoint
from sharpness.engine import SampleSums, distributed, mean_error
from sharpness.errors import UserError, choose
from sharpness.objective import Objective
from sharpness.probes.comparison import common_fields
from sharpness.probes.cost import Cost, announce
from sharpness.probes.eigenvalues import eigenvalues
from sharpness.probes.perturbation import random_perturbation
from sharpness.probes.subjects import checkpoint_objective, labelled_checkpoints
from sharpness.probes.trace import trace
from sharpness.probes.worst_case import worst_case
from sharpness.results import Comparison, MeasureResult, load_result

MEASURES = ("accuracy", "loss", "lambda_max", "lambda_min", "trace", "random_rise", "worst_rise")
DEFAULT = ("accuracy", "loss", "lambda_max", "lambda_min", "random_rise", "worst_rise")
#: Products that a run of Lanczos usually takes, for the estimate beforehand.
PRODUCTS = 40
logger = logging.getLogger("sharpness")


@dataclass(frozen=True)
class Settings:
    """What is measured, and how: the arguments of :func:`measure`."""

    measures: tuple[str, ...]
    radius: float
    draws: int
    rho: float
    probes: int
    tol: float
    max_iterations: int
    seed: int


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
    resume: str | Path | None = None,
    **options: Any,
) -> MeasureResult | Comparison[MeasureResult]:
    r"""One row per class, one column per measure, each with its standard error.

    ==============  =========================================================================  ====================
    measure                                                                                    standard error over
    ==============  =========================================================================  ====================
    accuracy        share of right answers                                                     images
    loss            L_c                                                                        images
    lambda_max      largest eigenvalue of the Hessian of L_c                                   images
    lambda_min      smallest (most negative) eigenvalue of the Hessian of L_c                  images
    trace           trace of the Hessian of L_c, by ``probes`` random vectors                  random vectors
    random_rise     mean rise of L_c at relative distance ``radius`` in ``draws``              draws
                    filter-normalised directions
    worst_rise      rise of L_c after one ascent step of length ``rho``                        images
    ==============  =========================================================================  ====================

    Over images: how much the number would change with other images of the class,
    :func:`~sharpness.engine.mean_error`; NaN for a class of one image. An eigenvalue's is that of :math:`v' H v` with v
    fixed, the rise's that at the same weights.

    Args:
        subject: an objective, a checkpoint (object or path), or ``{label: one of these}``, to compare; a folder of
            checkpoints compares all of them.
        train_counts: (C,) training images per class; those of the objective unless given.
        resume: a folder for finished and unfinished work; the same call goes on there, model by model and class by
            class.
        options: of :func:`checkpoint_objective`, for checkpoints.

    Raises:
        UserError: an unknown measure, or what the probes refuse. An eigenvalue that has not converged becomes NaN.
    """
    for name in measures:
        choose("measure", name, MEASURES)
    names = tuple(m for m in MEASURES if m in measures)
    if not names:
        raise UserError(f"no measures: choose some of {', '.join(MEASURES)}")
    settings = Settings(names, radius, draws, rho, probes, tol, max_iterations, seed)
    folder = None if resume is None else Path(resume)
    if isinstance(subject, str | Path):
        found = find_checkpoints(subject)
        subject = labelled_checkpoints([subject]) if len(found) > 1 else found[0]
    if not isinstance(subject, Mapping):
        return _measure_one(subject, settings, train_counts, folder, options)
    tables: Comparison = Comparison()
    for name, one in subject.items():
        models = len(subject) - len(tables)
        tables[name] = _measure_one(one, settings, train_counts, folder, options, models)
    return tables


def _measure_one(
    subject: Any,
    settings: Settings,
    train_counts: Sequence[int] | None,
    folder: Path | None,
    options: dict[str, Any],
    models: int = 1,
) -> MeasureResult:
    """The table of one model, the first of so many."""
    label = None
    if isinstance(subject, Objective):
        if options:
            raise UserError(f"options {sorted(options)} are for checkpoints: give them to the Objective")
    else:
        checkpoint = subject if isinstance(subject, Checkpoint) else load_checkpoint(subject)
        label = checkpoint.label
        subject = checkpoint_objective(checkpoint, **options)
    known = subject.train_counts if train_counts is None else train_counts
    counts = np.full(subject.num_classes, -1) if known is None else np.asarray(known)
    if len(counts) != subject.num_classes:
        raise UserError(f"train_counts of {len(counts)} classes: give one for each of the {subject.num_classes}")
    base = subject.check()
    fields = common_fields(subject, probe="measure", **asdict(settings) | {"measures": list(settings.measures)})
    key = {**fields["provenance"], "groups": subject.groups, "names": subject.class_names, "train": counts.tolist()}
    stored = _stored(folder, {**key, "label": label, "value": f"{base.mean:.4g}"})
    if stored is not None and stored.is_file():
        try:
            return load_result(stored)
        except UserError as error:
            logger.warning("%s: its model is measured again", error)
    _tell(subject, settings, models, label)
    columns = _columns(subject, base, settings, folder)
    result = MeasureResult(
        names=settings.measures,
        overall=np.array([columns[m][0] for m in settings.measures]),
        overall_errors=np.array([columns[m][1] for m in settings.measures]),
        values=np.stack([columns[m][2] for m in settings.measures]),
        errors=np.stack([columns[m][3] for m in settings.measures]),
        train_counts=counts,
        **fields,
    )
    if label is not None:
        result.provenance["label"] = label
    if stored is not None and distributed.rank() == 0:
        result.save(stored)
    return result


def _stored(folder: Path | None, key: dict[str, Any]) -> Path | None:
    """Where the table of a model is kept, by everything that it depends on."""
    if folder is None:
        return None
    return folder / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]}.nc"


def _tell(objective: Objective, settings: Settings, models: int, label: str | None) -> None:
    """Say what comes and how long it should take."""
    chosen = set(settings.measures)
    forwards, gradients, products = 1, 0, 0
    if {"lambda_max", "lambda_min"} & chosen:
        products += 2 * PRODUCTS
    if "trace" in chosen:
        products += 2 * settings.probes
    if "random_rise" in chosen:
        forwards += settings.draws
    if "worst_rise" in chosen:
        forwards, gradients = forwards + 4, gradients + 1
    seconds = Cost.of(objective, bool(products)).seconds(forwards, gradients, products) * objective.num_samples
    whose = f"{label or 'the model'} and {models - 1} more" if models > 1 else label or "the model"
    announce(
        f"measuring {', '.join(settings.measures)} of {whose} on {objective.num_samples} samples of "
        f"{int((objective.class_counts > 0).sum())} classes",
        models * seconds,
    )


#: Overall value and standard error, and the same per class.
Column = tuple[float, float, np.ndarray, np.ndarray]


def _columns(objective: Objective, base: SampleSums, settings: Settings, resume: Path | None) -> dict[str, Column]:
    names, seed = set(settings.measures), settings.seed
    (loss, right), (of_losses, of_answers) = _over_samples(objective, base)
    columns: dict[str, Column] = {
        "loss": (base.mean, loss, base.class_means, of_losses),
        "accuracy": (float(base.correct.sum() / base.count.sum()), right, base.class_accuracies, of_answers),
    }
    if {"lambda_max", "lambda_min"} & names:
        spectra = [
            eigenvalues(
                objective,
                1,
                "both",
                per_class,
                tol=settings.tol,
                max_iterations=settings.max_iterations,
                seed=seed,
                keep_vectors=False,
                standard_errors=True,
                resume=resume,
            )
            for per_class in (False, True)
        ]
        for m, rank in (("lambda_max", 0), ("lambda_min", -1)):
            overall, classes = (np.where(s.converged, s.values, np.nan)[..., rank] for s in spectra)
            error, errors = (s.errors[..., rank] for s in spectra)
            columns[m] = (float(overall), float(error), classes, errors)
    if "trace" in names:
        overall_trace, classes_trace = (
            trace(objective, c, settings.probes, seed, resume=resume) for c in (False, True)
        )
        columns["trace"] = (
            float(overall_trace.overall[0]),
            float(overall_trace.overall_errors[0]),
            classes_trace.values[0],
            classes_trace.errors[0],
        )
    if "random_rise" in names:
        perturbed = random_perturbation(objective, [settings.radius], settings.draws, seed=seed, resume=resume)
        rises = [perturbed.rise(s) for s in (None, *range(objective.num_classes))]
        mean, spread = (np.array([r[i][0] for r in rises]) for i in (0, 1))
        columns["random_rise"] = (float(mean[0]), float(spread[0]), mean[1:], spread[1:])
    if "worst_rise" in names:
        worst = worst_case(objective, settings.rho, resume=resume)
        columns["worst_rise"] = (
            float(worst.overall[2]),
            float(worst.overall_errors[2]),
            worst.values[2],
            worst.errors[2],
        )
    return columns


def _over_samples(objective: Objective, base: SampleSums) -> tuple[tuple[float, float], tuple[np.ndarray, np.ndarray]]:
    """Standard errors of loss and accuracy: overall, and of every class (C,)."""
    labels, ones = objective.y.numpy(), np.ones(objective.num_samples)
    loss = np.full(objective.num_classes, np.nan)
    accuracy = loss.copy()
    for c in np.flatnonzero(objective.class_counts):
        chosen = labels == c
        loss[c] = mean_error(base.losses[chosen], base.rows[1][chosen])
        accuracy[c] = mean_error(base.rows[2][chosen], ones[chosen])
    return (mean_error(base.losses, base.rows[1]), mean_error(base.rows[2], ones)), (loss, accuracy)
