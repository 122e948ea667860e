"""All figures of the talk for a list of methods: train what is missing, probe, draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from sharpness.data import LongTailData
from sharpness.files import write_atomically, write_csv
from sharpness.plots import save_figure
from sharpness.probes import (
    checkpoint_objective,
    eigenvalues,
    line,
    plane,
    random_perturbation,
    require_comparable,
    worst_case,
)
from sharpness.studies.curvature import draw_curvature
from sharpness.studies.motivation import RADII, draw_motivation
from sharpness.studies.runs import measured, trained
from sharpness.studies.summary import summary_table, to_markdown
from sharpness.studies.visualization import draw_lines, draw_planes, drawn_numbers

METHODS = ("ce", "ldam-drw", "mislas", "gcl", "cc-sam")


@dataclass(frozen=True)
class Figures:
    """What was drawn, and the summary."""

    summary: pd.DataFrame
    files: list[Path]


def make_figures(
    data: LongTailData,
    methods: Sequence[str] = METHODS,
    out: str | Path = "figures",
    runs: str | Path = "runs",
    *,
    grid: int = 51,
    extent: float = 0.5,
    adaptive: float | None = 0.01,
    radii: Sequence[float] = RADII,
    draws: int = 5,
    split: str = "train",
    loss: str = "ce",
    limit_per_class: int | None = None,
    data_root: str | None = None,
    seed: int = 0,
    **training: Any,
) -> Figures:
    """Motivation, per-class curvature, visualization and summary for a list of methods on a data set.

    Every picture is a PDF and a PNG; the numbers behind it stand beside it as CSV, and the results they come from under
    ``OUT/results``. Models and results that exist already are reused.

    Args:
        grid: points along each side of the plane; the line has twice as many.
        extent: half the length of line and plane, in filter norms.
        adaptive: part of the relief to which planes are interpolated; every point is evaluated if None.
        training: of :func:`sharpness.train`: epochs, model, batch_size, precision, device.
    """
    out = Path(out)
    checkpoints = trained(methods, data, Path(runs), seed, **training)
    objectives = {
        label: checkpoint_objective(c, split, loss, data_root, limit_per_class) for label, c in checkpoints.items()
    }
    require_comparable(objectives, own_losses=loss == "training")
    store = out / "results"
    perturbations = measured(
        random_perturbation, objectives, store, "perturbation", radii=tuple(radii), draws=draws, seed=seed
    )
    classes = measured(
        eigenvalues,
        objectives,
        store,
        "class-eigenvalues",
        which="both",
        per_class=True,
        keep_vectors=False,
        seed=seed,
    )
    overall = measured(eigenvalues, objectives, store, "eigenvalues", which="both", keep_vectors=False, seed=seed)
    worst = measured(worst_case, objectives, store, "worst-case")
    span = (-extent, extent, grid)
    lines = measured(line, objectives, store, "line", x=(-extent, extent, 2 * grid - 1), seed=seed)
    planes = measured(plane, objectives, store, "plane", x=span, y=span, adaptive=adaptive, seed=seed)
    tail = data.longtail.tail_class
    pictures: dict[str, tuple[Figure, pd.DataFrame | None]] = {
        "motivation": (draw_motivation(perturbations, tail), perturbations.to_frame()),
        "eigenvalues": (draw_curvature(classes, data.class_counts), classes.to_frame()),
        "visualization_lines": (draw_lines(lines, tail), lines.to_frame()),
        "visualization_contours": (draw_planes(planes, tail, "filled"), drawn_numbers(planes, tail)),
        "visualization_surfaces": (draw_planes(planes, tail, "surface"), None),  # those of the contours
    }
    files: list[Path] = []
    for name, (figure, numbers) in pictures.items():
        files += save_figure(figure, out / name)
        if numbers is not None:
            files.append(write_csv(numbers, out / f"{name}.csv"))
    summary = summary_table(checkpoints, perturbations, overall, classes, worst, tail)
    files.append(write_csv(summary, out / "summary.csv"))
    write_atomically(out / "summary.md", lambda partial: partial.write_text(to_markdown(summary), encoding="utf-8"))
    return Figures(summary, [*files, out / "summary.md"])
