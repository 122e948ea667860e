"""The largest and the smallest eigenvalue of the Hessian."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np

from sharpness.errors import choose, require_whole
from sharpness.objective.coordinates import COORDINATES
from sharpness.probes.curvature.row_eigenvalues import LARGEST, SMALLEST, RowEigenvalues, solved
from sharpness.probes.curvature.rows import rows_of
from sharpness.probes.measures.measure import Measure, Passes, Subject, require_positive
from sharpness.probes.shared.column import Column, sample_freedom
from sharpness.progress import progress
from sharpness.statistics.estimate import interval

logger = logging.getLogger("sharpness")


@dataclass(frozen=True)
class Lanczos:
    """Settings of the extreme eigenvalues, see :func:`~sharpness.eigenvalues`.

    Args:
        tol: residual of an eigenvalue, relative to the largest.
        max_iterations: maximum number of products for each end of a spectrum.
        seed: seed of the start vector.
        coordinates: coordinates of the parameters; None for those of the objective.
    """

    tol: float = 1e-3
    max_iterations: int = 100
    seed: int = 0
    coordinates: str | None = None

    def __post_init__(self) -> None:
        if self.coordinates is not None:
            choose("coordinates", self.coordinates, COORDINATES)
        require_positive("tol", self.tol)
        require_whole("max_iterations", self.max_iterations, 1)
        require_whole("seed", self.seed)


def ends_of_spectra(subject: Subject, settings: Lanczos) -> dict[str, Column]:
    """Compute the requested ends of the spectra; unconverged eigenvalues are NaN, with a warning.

    All samples form one more row after the classes, which is computed at the same time as they are.
    """
    objective, ends = subject.objective, [name for name in ("lambda_max", "lambda_min") if name in subject.names]
    which = "both" if len(ends) > 1 else "LA" if ends == ["lambda_max"] else "SA"
    rows = rows_of(objective, True, options={"coordinates": settings.coordinates})
    present = [i for i, _ in rows.present]
    if len(present) > 1:  # if a single class has samples, these are all samples
        rows = replace(rows, parts=(*rows.parts, rows.whole), names=(*rows.names, "all samples"))
    fields = rows.fields(probe="ends of spectra", which=which, **asdict(settings))
    work = rows.work(subject.resume, fields["provenance"])
    task = RowEigenvalues(work, 1, which, settings.tol, settings.max_iterations, settings.seed, standard_errors=True)
    with progress(None, "eigenvalues", "products") as bar:
        done = solved(rows, task, bar, subject.executor)
    done[objective.num_classes] = done[max(done)]
    shape = (objective.num_classes + 1, len(ends))
    values, errors, converged = np.full(shape, np.nan), np.full(shape, np.nan), np.ones(shape, dtype=bool)
    for row, found in done.items():
        # A model of one parameter has a single eigenvalue, which is both ends.
        values[row], errors[row], converged[row] = found["values"], found["errors"], found["converged"]
    named = {objective.num_classes: "all samples"} | {i: objective.class_names[i] for i in present}
    missing = [name for row, name in named.items() if not converged[row].all()]
    if missing:
        logger.warning(
            "%s: not converged to tol=%g in max_iterations=%s, and left out: eigenvalues of %s",
            subject.label or "the model", settings.tol, settings.max_iterations, ", ".join(missing),
        )  # fmt: skip
    values = np.where(converged, values, np.nan)
    limits = interval(values, errors, sample_freedom(objective)[:, None], keeps_sign=True)
    return {
        name: Column.of_images(objective, values[:, end], errors[:, end], limits[..., end])
        for end, name in enumerate(ends)
    }


def passes(products: int) -> Callable[[Lanczos], Passes]:
    """Return a function that counts so many products for each class, and for all samples."""
    return lambda settings: Passes(products=products, of_all=products)


LAMBDA_MAX = Measure(
    "lambda_max", ends_of_spectra, Lanczos, passes(LARGEST), title="Largest eigenvalue",
    symbol=r"$\lambda_\mathrm{max}$", lower_is_flatter=True, symlog=True,
    explained="the largest eigenvalue of its Hessian{in_coordinates}",
)  # fmt: skip
LAMBDA_MIN = Measure(
    "lambda_min", ends_of_spectra, Lanczos, passes(SMALLEST), title="Smallest eigenvalue",
    symbol=r"$\lambda_\mathrm{min}$", lower_is_flatter=False, symlog=True, ratio=False,
    explained="the smallest eigenvalue of its Hessian{in_coordinates}",
)  # fmt: skip
