"""Probes: objective in, result out."""

from sharpness.probes.comparison import require_comparable
from sharpness.probes.directions import gaussian, gaussian_pair, normalize
from sharpness.probes.eigenvalues import eigenvalues
from sharpness.probes.landscape import line, plane
from sharpness.probes.measure import MEASURES, checkpoint_objective, measure
from sharpness.probes.perturbation import random_perturbation
from sharpness.probes.spectral_density import spectral_density
from sharpness.probes.trace import trace
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
    "spectral_density",
    "trace",
    "worst_case",
]
