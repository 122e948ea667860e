"""Algorithms on any symmetric linear operator given by its product with a vector."""

from sharpness.curvature.density import stochastic_lanczos
from sharpness.curvature.ends import ENDS
from sharpness.curvature.estimate import effective_samples, interval, mean_and_error, mean_interval_of, wilson
from sharpness.curvature.lanczos import Eigenpairs, lanczos, lanczos_memory
from sharpness.curvature.lanczos_state import LanczosState
from sharpness.curvature.operator import random_signs
from sharpness.curvature.quadrature import DensityCurve, SpectralQuadrature
from sharpness.curvature.recurrence import Extremes, extremes
from sharpness.curvature.trace import TraceEstimate, hutchinson, hutchpp

__all__ = [
    "ENDS",
    "DensityCurve",
    "Eigenpairs",
    "Extremes",
    "LanczosState",
    "SpectralQuadrature",
    "TraceEstimate",
    "effective_samples",
    "extremes",
    "hutchinson",
    "hutchpp",
    "interval",
    "lanczos",
    "lanczos_memory",
    "mean_and_error",
    "mean_interval_of",
    "random_signs",
    "stochastic_lanczos",
    "wilson",
]
