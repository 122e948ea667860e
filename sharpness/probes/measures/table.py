"""The per-class table of a model: the sharpness of a minimum for every class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Unpack

import numpy as np
from torch import nn

from sharpness.checkpoints import Checkpoint, find_checkpoints, load_checkpoint
from sharpness.clusters import Parcel, do_all, parcelled, scratch_of, width
from sharpness.data import read_once
from sharpness.engine.class_sums import SampleSums
from sharpness.engine.undisturbed import undisturbed
from sharpness.errors import UserError
from sharpness.keywords import Default, typed_keywords
from sharpness.objective import Objective
from sharpness.probes.measures.asked import Asked, asked_for, told_apart
from sharpness.probes.measures.duration import announce_table
from sharpness.probes.measures.extreme_eigenvalues import Lanczos
from sharpness.probes.measures.measure import Subject
from sharpness.probes.measures.random_rise import RandomDirections
from sharpness.probes.measures.registry import MEASURES, chosen_measures, versions_of
from sharpness.probes.measures.trace import Hutchinson
from sharpness.probes.measures.worst_rise import Ascent
from sharpness.probes.shared.as_objective import as_objective, labelled_checkpoints
from sharpness.probes.shared.column import Column, table_of
from sharpness.probes.shared.comparison import class_fields, common_fields, side_by_side
from sharpness.probes.shared.cost import announce
from sharpness.probes.shared.options import MeasureOptions
from sharpness.probes.shared.probe import plain_number, table_probe
from sharpness.probes.shared.trainings import Training, compared
from sharpness.probes.shared.work import kept_result, key_of
from sharpness.progress import progress
from sharpness.registry import registered, take_over
from sharpness.renamed import renamed_arguments
from sharpness.results import Comparison, MeasureResult


class TableOptions(MeasureOptions, total=False):
    """Keywords of :func:`~sharpness.measure`.

    Attributes:
        train_counts: (C,) number of training images per class; by default those of the objective. They define the
            groups many, medium and few if no groups were given.
        radius: radius of the random rise, relative to the norms of the filters.
        draws: number of random directions for the random rise.
        rho: length of the ascent step for the worst rise.
        trace_draws: number of random vectors for the trace, where it is not exact.
        tol: tolerance of eigenvalue residuals, see :func:`~sharpness.eigenvalues`.
        max_iterations: maximum number of Lanczos iterations per end of a spectrum.
        coordinates: coordinates of eigenvalues and traces: ``"filter"`` for the Hessian in filter-normalised
            coordinates, which is invariant to rescaling weights in front of BatchNorm, see
            :func:`~sharpness.eigenvalues`. By default those of the objective, which are plain.
        seed: seed of directions, random vectors and starting vectors.
        resume: folder for finished and unfinished work. The same call resumes from it, model by model and class by
            class.
        executor: executor for the tasks, see :func:`sharpness.cluster`: one per model if there are at least as many
            models as workers, otherwise one per class for eigenvalues and traces. By default threads of this process.
    """

    train_counts: Sequence[int] | None
    radius: Annotated[float, Default(RandomDirections.radius)]
    draws: Annotated[int, Default(RandomDirections.draws)]
    rho: Annotated[float, Default(Ascent.rho)]
    trace_draws: Annotated[int, Default(Hutchinson.trace_draws)]
    tol: Annotated[float, Default(Lanczos.tol)]
    max_iterations: Annotated[int, Default(Lanczos.max_iterations)]
    coordinates: str | None
    seed: Annotated[int, Default(0)]
    resume: str | Path | None
    executor: Executor | None


#: Settings of built-in measures.
NUMBERS = ("radius", "draws", "rho", "trace_draws", "tol", "max_iterations", "coordinates", "seed")


@renamed_arguments(probes="trace_draws")
@table_probe
@undisturbed()
@typed_keywords()
def measure(
    subject: Objective | nn.Module | Checkpoint | str | Path | Mapping[str, Any],
    *given: Any,
    data: Any = None,
    measures: str | Sequence[str] | None = None,
    **given_options: Unpack[TableOptions],
) -> MeasureResult | Comparison[MeasureResult]:
    r"""Measure a model: one row per class, one column per measure, with standard errors and 95 % intervals.

    ================= =========================================================================  ====================
    measure                                                                                      standard error over
    ================= =========================================================================  ====================
    accuracy          accuracy, where targets are labels                                         images
    loss              L_c                                                                        images
    lambda_max        largest eigenvalue of the Hessian of L_c                                   images
    lambda_min        smallest (most negative) eigenvalue of the Hessian of L_c                  images
    trace             trace of the Hessian of L_c, exact or by ``trace_draws`` random vectors    images or vectors
    random_rise       mean rise of L_c at relative distance ``radius`` in ``draws``              draws
                      filter-normalised directions
    worst_rise        rise of L_c after one ascent step of length ``rho``                        images
    critical_radius   distance in ``draws`` random directions at which L_c doubles or accuracy   draws
                      falls by ten points, see :func:`~sharpness.critical_radius`
    update_radius     the same along the last update of a run with snapshots                     none
    soft_rank         trace over largest eigenvalue                                              as the trace
    relative_flatness relative flatness of the last layer (Petzka et al. 2021)                   images
    fisher_rao_norm   Fisher-Rao norm (Liang et al. 2019)                                        images
    displacement      distance to the class's own optimum, see :func:`~sharpness.class_optima`    images
    optimum_loss      L_c at that optimum                                                        images
    ece               expected calibration error, in 15 bins                                     images
    margin            output of the label minus the largest other                                images
    ================= =========================================================================  ====================

    A standard error over images states how much the number would change with other images of the class, see
    :func:`~sharpness.engine.class_sums.mean_error`; it is NaN for a class of one image. For an eigenvalue it is that of
    :math:`v' H v` with v fixed; for the worst rise, that at the same perturbed weights; for an accuracy,
    :func:`~sharpness.engine.class_sums.share_error`, which is not 0 when every prediction is correct. Over all samples,
    loss and accuracy weight every sample by its weight in the objective. The value of a group is the mean over its
    classes; its error accounts for the fact that classes share draws and random vectors, but not images.

    Intervals are 95 % intervals: Wilson's for accuracies, and Student's for the rest, with one degree of freedom less
    than the number of images, draws or vectors. For quantities of fixed sign (losses, both ends of a spectrum, the
    worst rise, exact traces that are negative for no image) they are computed on a logarithmic scale. See
    :mod:`sharpness.statistics.estimate`.

    Args:
        subject: an objective, a model (with data), a checkpoint (object or path), or ``{label: one of these}`` to
            compare several; a list under a label means several trainings of one model. A folder of checkpoints compares
            all of them; those that differ only in their seed are trainings of one model.
        given: data, measures, or both as positional arguments: ``measure(model, (x, y))``, ``measure(objective,
            "accuracy,loss")``.
        data: data for a model, as :class:`~sharpness.Objective` takes it, or for a checkpoint, as
            :func:`checkpoint_objective` takes it, such as ``"cifar10-lt"``.
        measures: names from the table above, as a list or comma-separated text, or ``"all"``; by default those up to
            ``worst_rise``, without the trace.
        given_options: options of :class:`~sharpness.Objective` for models, or of :func:`checkpoint_objective` for
            checkpoints.

    Returns:
        The table; for a mapping or a folder of several models, a :class:`~sharpness.Comparison` of tables by label.

    Raises:
        UserError: an unknown measure, a setting out of range, input that a probe refuses, or models that cannot be
            compared (different images, scope, loss, ...). An eigenvalue that has not converged becomes NaN, with a
            warning.

    >>> model, data = nn.Linear(2, 2), ([[1.0, 0.0], [0.0, 1.0]], [0, 1])
    >>> measure(model, data, "accuracy, loss").names
    ('accuracy', 'loss')
    """
    data, measures = told_apart(given, data, measures)
    # Leave out defaults, because an Objective accepts no options. False may be a setting of a measure.
    settings = {name for measure in chosen_measures(measures) for name in measure.setting_names}
    options: dict[str, Any] = {
        n: v for n, v in given_options.items() if v is not None and (v is not False or n in settings)
    }
    train_counts, resume, executor = (options.pop(name, None) for name in ("train_counts", "resume", "executor"))
    numbers = {name: options.pop(name, None) for name in NUMBERS}
    numbers["seed"] = plain_number("seed", numbers["seed"], "int | None")
    asked = asked_for(measures, numbers, options)
    # Read once for all models, because the first one would use up an iterator.
    options |= {"data": read_once(data)}
    folder = None if resume is None else Path(resume)
    if isinstance(subject, str | Path):
        found = find_checkpoints(subject)
        subject = labelled_checkpoints([subject]) if len(found) > 1 else found[0]
    if not isinstance(subject, Mapping):
        if isinstance(subject, str | Path):
            subject = load_checkpoint(subject)
        label = subject.label if isinstance(subject, Checkpoint) else None
        return _measure_one(as_objective(subject, **options), asked, train_counts, folder, label, None, executor)
    own_losses = options.get("loss") == "training"
    models = side_by_side(subject, lambda one: as_objective(one, **options), own_losses)
    tables = {}
    if executor is not None and len(models) >= width(executor):
        tables = _sent(models, asked, train_counts, folder, executor)
    left = iter(range(len(models), 0, -1))

    def table(one: Training) -> MeasureResult:
        if (one.label, one.run) in tables:
            return tables[one.label, one.run]
        return _measure_one(one.subject, asked, train_counts, folder, one.label, one.run, executor, next(left))

    return compared(models, table)


def _sent(
    models: Sequence[Training], asked: Asked, train_counts: Sequence[int] | None, folder: Path | None,
    executor: Executor,
) -> dict[tuple[str, str | None], MeasureResult]:  # fmt: skip
    """Compute the tables of models on an executor, one task each; by label and run."""
    known, shared = registered(list(asked.by_name)), scratch_of(executor, folder)
    with ExitStack() as parcels:
        calls = {}
        for one in models:
            parcel = parcels.enter_context(parcelled((known, one.subject), shared))
            calls[one.label, one.run] = partial(
                _table_elsewhere, parcel, asked.by_name, asked.usual, train_counts, folder, one.label, one.run
            )
        announce(f"measuring {', '.join(asked.by_name)} of {len(models)} models on {width(executor)} workers")
        found = {}
        with progress(len(models), "models", "models") as bar:
            for key, result in do_all(executor, calls):
                found[key] = result
                bar.update()
    return found


def _table_elsewhere(parcel: Parcel, settings: dict[str, Any], usual: bool, *given: Any) -> MeasureResult:
    """Compute the table of a model in another process; measures are sent by name, so functions need no pickling.

    Args:
        given: training counts, folder, label and run, as :func:`_measure_one` takes them.
    """
    known, objective = parcel.open()
    take_over(known)
    asked = Asked({MEASURES.choose(name): chosen for name, chosen in settings.items()}, usual)
    return _measure_one(objective, asked, *given)


#: A loss below which derivatives are almost zero, whatever the landscape.
SATURATED = 1e-4


def _measure_one(
    subject: Objective,
    asked: Asked,
    train_counts: Sequence[int] | None,
    folder: Path | None,
    label: str | None = None,
    run: str | None = None,
    executor: Executor | None = None,
    models: int = 1,
) -> MeasureResult:
    """Compute the table of one model.

    Args:
        models: number of models that remain to be measured, including this one, for the announced duration.

    Raises:
        UserError: training counts for another number of classes.
    """
    if train_counts is not None:
        if len(train_counts) != subject.num_classes:
            raise UserError(
                f"train_counts of {len(train_counts)} classes: give one for each of the {subject.num_classes}"
            )
        subject = subject.counted(train_counts)
    known = subject.train_counts
    counts = np.full(subject.num_classes, -1) if known is None else known
    settings = asked.of(subject)
    names = tuple(measure.name for measure in settings)
    base = subject.check()
    numbers: dict[str, Any] = {"measures": list(names)}
    for chosen in settings.values():
        numbers |= asdict(chosen)
    # With versions, so that a saved table is not reused after the code of a registered measure has changed.
    numbers |= versions_of(settings)
    fields = common_fields(subject, probe="measure", **numbers)
    key = {**fields["provenance"], **class_fields(subject)}
    digest = key_of({**key, "label": label, "run": run, "value": f"{base.mean:.4g}"})

    def fits(found: Any) -> bool:
        return type(found) is MeasureResult and found.names == names

    def compute() -> MeasureResult:
        announce_table(subject, settings, models, label, executor)
        columns: dict[str, Column] = {}
        about = Subject(subject, base, names, folder, label, executor, columns)
        with subject.checked(base):
            for measure, chosen in settings.items():
                if measure.name not in columns:  # one computation may give several columns
                    columns |= measure.compute(about, chosen)
        described = {measure.name: measure.shown_with(chosen) for measure, chosen in settings.items()}
        result = table_of({name: columns[name] for name in names}, counts, described=described, **fields)
        result.provenance["saturated"] = _saturated(subject, base)
        if label is not None:
            result.provenance["label"] = label
        return result

    return kept_result(None if folder is None else folder / f"{digest}.nc", fits, compute)


def _saturated(objective: Objective, base: SampleSums) -> dict[str, float]:
    """The fraction of images with a loss below :data:`SATURATED`, for classes where it is above one half."""
    small, classes = base.losses < SATURATED, objective.classes.numpy()
    parts = {objective.class_names[c]: float(small[classes == c].mean()) for c in np.unique(classes)}
    return {name: part for name, part in parts.items() if part > 0.5}
