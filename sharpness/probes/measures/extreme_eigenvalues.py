"""The largest and the smallest eigenvalue of the Hessian."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from sharpness.curvature import interval
from sharpness.errors import choose, require_whole
from sharpness.objective.coordinates import COORDINATES
from sharpness.probes.curvature.eigenvalues import eigenvalues
from sharpness.probes.measures.measure import Measure, Passes, Subject, require_positive
from sharpness.probes.shared.column import Column, sample_freedom
from sharpness.results import EigenvalueResult

#: Products that a run of Lanczos usually takes, for the estimate beforehand.
PRODUCTS = 40
logger = logging.getLogger("sharpness")


@dataclass(frozen=True)
class Lanczos:
    """Settings of the extreme eigenvalues, see :func:`~sharpness.eigenvalues`.

    Args:
        tol: residual of an eigenvalue, relative to the largest.
        max_iterations: products for each end of a spectrum at most.
        seed: of the start vector.
        coordinates: of the parameters.
    """

    tol: float = 1e-3
    max_iterations: int = 100
    seed: int = 0
    coordinates: str = "plain"

    def __post_init__(self) -> None:
        choose("coordinates", self.coordinates, COORDINATES)
        require_positive("tol", self.tol)
        require_whole("max_iterations", self.max_iterations, 1)
        require_whole("seed", self.seed)


def ends_of_spectra(subject: Subject, settings: Lanczos) -> dict[str, Column]:
    """Both ends of the spectra; what has not converged is NaN, and named in a warning."""
    objective, present = subject.objective, np.flatnonzero(subject.objective.class_samples)

    def solved(per_class: bool) -> EigenvalueResult:
        found = eigenvalues(
            objective, 1, "both", per_class, tol=settings.tol, max_iterations=settings.max_iterations,
            seed=settings.seed, coordinates=settings.coordinates, keep_vectors=False, standard_errors=True,
            resume=subject.resume,
        )  # fmt: skip
        assert isinstance(found, EigenvalueResult) and found.standard_errors is not None
        return found

    classes = solved(True)
    # Where a single class has samples, they are all samples: its spectrum is not computed twice.
    whole = {name: getattr(classes, name)[present[0]] for name in ("values", "standard_errors", "converged")}
    if len(present) > 1:
        overall = solved(False)
        whole = {name: getattr(overall, name) for name in whole}
    values, errors, converged = (np.concatenate([getattr(classes, name), row[None]]) for name, row in whole.items())
    names = {len(classes.values): "all samples"} | {int(c): objective.class_names[c] for c in present}
    missing = [name for row, name in names.items() if not converged[row].all()]
    if missing:
        logger.warning(
            "%s: not converged to tol=%g in max_iterations=%s, and left out: eigenvalues of %s",
            subject.label or "the model", settings.tol, settings.max_iterations, ", ".join(missing),
        )  # fmt: skip
    values = np.where(converged, values, np.nan)
    ends = interval(values, errors, sample_freedom(objective)[:, None], keeps_sign=True)
    return {
        name: Column.of_images(objective, values[:, end], errors[:, end], ends[..., end])
        for end, name in enumerate(("lambda_max", "lambda_min"))
    }


def passes(settings: Lanczos) -> Passes:
    """Products for classes and for all samples."""
    return Passes(products=2 * PRODUCTS)


LAMBDA_MAX = Measure(
    "lambda_max", ends_of_spectra, Lanczos, passes, title="Largest eigenvalue", symbol=r"$\lambda_\mathrm{max}$",
    lower_is_flatter=True, symlog=True, explained="the largest eigenvalue of its Hessian{in_coordinates}",
)  # fmt: skip
LAMBDA_MIN = Measure(
    "lambda_min", ends_of_spectra, Lanczos, passes, title="Smallest eigenvalue", symbol=r"$\lambda_\mathrm{min}$",
    lower_is_flatter=False, symlog=True, ratio=False,
    explained="the smallest eigenvalue of its Hessian{in_coordinates}",
)  # fmt: skip
