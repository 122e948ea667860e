"""The flattening study: accuracy and sharpness of every method with every operation, over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from sharpness.data import LongTailData
from sharpness.studies.cells import NONE, grid
from sharpness.studies.grid import Study, default_epochs, part_of, write_study
from sharpness.studies.run import run_cells
from sharpness.studies.seeds import changes
from sharpness.studies.settings import Settings, StudyOptions, settings_of

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
    **options: Unpack[StudyOptions],
) -> Study:
    """Train every method with every flattening operation and every seed, and compare accuracy and sharpness.

    The figure shows the change by an operation, paired by seed. Models and results that exist already are reused, so
    that an interrupted study continues; a run that diverges is reported and left out.

    Args:
        operations: flattening operations and ``"none"``, with which they are compared.
        out: folder of tables and figures.
        runs: folder of the runs; the results of a run's probes lie beside its weights.
        options: see :class:`~sharpness.studies.settings.StudyOptions`; the epochs of the first stage are 40 for
            digits-lt, for other data the published ones unless given.
    """
    options["epochs"] = default_epochs(data, options.get("epochs"))
    data, settings, making = settings_of(data, runs, options, Settings)
    cells = run_cells("flattening", grid(methods, operations, seeds), data, settings, making)
    if making.part:
        return part_of(cells, making.part)
    # Against the method alone with the same seed, which shares initialisation and order of the images.
    numbers, names = changes(cells, NONE), ("method", "operation")
    reference = "the method without an operation"
    return write_study(Path(out), "flattening", cells, numbers, names, reference, settings, data.augmentation)
