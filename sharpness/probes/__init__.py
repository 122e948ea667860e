"""Probes: objective in, result out."""

from sharpness.probes.comparison import require_comparable
from sharpness.probes.directions import gaussian, gaussian_pair, normalize
from sharpness.probes.hessian import eigenvalues, trace
from sharpness.probes.landscape import line, plane
from sharpness.probes.measure import MEASURES, checkpoint_objective, measure
from sharpness.probes.perturbation import random_perturbation
from sharpness.probes.worst_case import worst_case

__all__ = [
    "MEASURES",
    "checkpoint_objective",
    "eigenvalues",
    "gaussian",
    "gaussian_pair",
    "line",
    "measure",
    "normalize",
    "plane",
    "random_perturbation",
    "require_comparable",
    "trace",
    "worst_case",
]
