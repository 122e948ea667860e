"""The microbenchmark of CC-SAM: contributions of direction and magnitude in stage 1, and of stage 2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from sharpness.data import LongTailData
from sharpness.studies.cells import Cell
from sharpness.studies.grid import Plan, Study, make_study
from sharpness.studies.settings import StudyOptions, require_distinct

#: The first stage, by the option ``mode`` of CC-SAM.
STAGE_1 = ("plain", "direction", "magnitude", "full")
#: The second stage, by the option ``stage2``.
STAGE_2 = {False: "stage 1 alone", True: "then stage 2"}


def variants(seeds: Sequence[int], rho_scale: float | None = None) -> list[Cell]:
    """Return the cells of every first stage, with and without the second one.

    With the second stage, ``full`` is CC-SAM and ``plain`` shows stage 2 alone.

    Args:
        seeds: seeds of the trainings.
        rho_scale: factor of the recommended length, without cap; None for the factor and the cap of the recipe.
            ``plain`` and ``direction``, which do not have this length, are the same for every factor.

    Raises:
        UserError: no seed, or a repeated seed.
    """
    require_distinct(seeds=seeds)
    scale = () if rho_scale is None else (("rho_scale", rho_scale), ("cap", "none"))
    scales = {"full": scale, "magnitude": scale}
    return [
        Cell(
            "cc-sam",
            options=(("mode", mode), ("stage2", second), *scales.get(mode, ())),
            seed=seed,
            row=mode,
            column=column,
        )
        for seed in seeds
        for mode in STAGE_1
        for second, column in STAGE_2.items()
    ]


def make_microbenchmark(
    data: LongTailData,
    seeds: Sequence[int] = (0, 1, 2),
    out: str | Path = "figures",
    runs: str | Path = "runs",
    *,
    rho_scale: float | None = None,
    **options: Unpack[StudyOptions],
) -> Study:
    """Train CC-SAM with both, one or no component of stage 1's perturbation, with and without stage 2.

    For each class c, the weights of the classifier are perturbed

    - ``full``: by the recommended length along the class gradient g_c,
    - ``direction``: by length 1 along g_c,
    - ``magnitude``: by the recommended length in a random direction,
    - ``plain``: not at all, which is training with mixup.

    The figure shows the difference of each variant from the plain first stage alone, paired by seed.

    Args:
        data: training and test set.
        seeds: seeds of the trainings.
        out: folder of tables and figures.
        runs: folder of the runs.
        rho_scale: factor of the recommended length, without bound; by default those of the recipe, 0.01 with its cap.
        options: options of :func:`~sharpness.studies.flattening.make_flattening_study`.
    """
    cells, reference = variants(seeds, rho_scale), (STAGE_2[False], STAGE_1[0])
    plan = Plan("microbenchmark", cells, ("stage 1", "stage 2"), reference, "a plain first stage alone")
    return make_study(plan, data, out, runs, options)
