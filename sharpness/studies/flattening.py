"""The flattening study: accuracy and sharpness of every method with every operation, over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sharpness.data import LongTailData
from sharpness.studies.cells import NONE, grid
from sharpness.studies.grid import Study, default_epochs, write_study
from sharpness.studies.seeds import changes
from sharpness.studies.settings import Settings, study_measures
from sharpness.studies.workers import run_cells

METHODS = ("ce", "ldam-drw", "mislas", "gcl")
#: Stochastic weight averaging, spectral normalisation, gradient-norm penalty, model perturbation.
OPERATIONS = (NONE, "swa", "sn", "gp", "mp")


def make_flattening_study(
    data: LongTailData,
    methods: Sequence[str] = METHODS,
    operations: Sequence[str] = OPERATIONS,
    seeds: Sequence[int] = (0, 1, 2),
    out: str | Path = "figures",
    runs: str | Path = "runs",
    *,
    epochs: int | None = None,
    split: str = "train",
    loss: str = "ce",
    limit_per_class: int | None = None,
    draws: int = 5,
    max_iterations: int = 100,
    measures: str | Sequence[str] | None = None,
    jobs: int | None = 1,
    augmentation: str | None = None,
    **training: Any,
) -> Study:
    """Train every method with every flattening operation and every seed, and compare accuracy and sharpness.

    The figure shows the change by an operation, paired by seed. Models and results that exist already are reused, so
    that an interrupted study continues; a run that diverges is reported and left out.

    Args:
        operations: flattening operations and ``"none"``, with which they are compared.
        out: folder of tables and figures.
        runs: folder of the runs; the results of a run's probes lie beside its weights.
        epochs: of the first stage; 40 for digits-lt, for other data the published ones unless given.
        split, loss, limit_per_class: of :func:`sharpness.checkpoint_objective`.
        draws: of random perturbations.
        max_iterations: of Lanczos' algorithm, for each spectrum.
        measures: of the table beside the accuracy on the test set; those of :func:`sharpness.measure` unless given.
        jobs: cells at a time, see :func:`sharpness.studies.workers.run_cells`.
        augmentation: of all trainings, see :func:`sharpness.train`.
        training: of :func:`sharpness.train`: model, batch_size, precision, device.
    """
    data, training = data.augmented(augmentation), {"epochs": default_epochs(data, epochs), **training}
    asked = study_measures(measures)
    settings = Settings(Path(runs), split, loss, limit_per_class, draws, max_iterations, training, asked)
    cells = run_cells("flattening", grid(methods, operations, seeds), data, settings, jobs)
    # Against the method alone with the same seed, which shares initialisation and order of the images.
    numbers, names = changes(cells, NONE), ("method", "operation")
    reference = "the method without an operation"
    return write_study(Path(out), "flattening", cells, numbers, names, reference, settings, data.augmentation)
