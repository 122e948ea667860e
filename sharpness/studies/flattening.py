"""The flattening study: accuracy and sharpness of every method with every operation, over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from sharpness.data import LongTailData
from sharpness.studies.cells import NONE, grid
from sharpness.studies.grid import Plan, Study, make_study
from sharpness.studies.settings import StudyOptions

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

    The figure shows the change due to each operation, paired by seed. Existing models and results are reused, so an
    interrupted study can be continued. A run that diverges is reported and left out.

    Args:
        data: training and test set.
        methods: names of methods.
        operations: flattening operations and ``"none"``, with which they are compared.
        seeds: seeds of the trainings.
        out: folder of tables and figures.
        runs: folder of the runs; the results of probes are stored with the weights of their run.
        options: see :class:`~sharpness.studies.settings.StudyOptions`; by default the first stage has 40 epochs for
            digits-lt, and the published number for other data.
    """
    cells = grid(methods, operations, seeds)
    plan = Plan("flattening", cells, ("method", "operation"), (NONE,), "the method without an operation")
    return make_study(plan, data, out, runs, options)
