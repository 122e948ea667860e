"""Algorithms on any symmetric linear operator given by its product with a vector."""

from sharpness.curvature.density import stochastic_lanczos
from sharpness.curvature.ends import ENDS
from sharpness.curvature.lanczos import Eigenpairs, lanczos, lanczos_memory
from sharpness.curvature.lanczos_state import LanczosState
from sharpness.curvature.operator import random_signs
from sharpness.curvature.recurrence import Extremes, extremes
from sharpness.curvature.trace import TraceEstimate, hutchinson, hutchpp

__all__ = [
    "ENDS",
    "Eigenpairs",
    "Extremes",
    "LanczosState",
    "TraceEstimate",
    "extremes",
    "hutchinson",
    "hutchpp",
    "lanczos",
    "lanczos_memory",
    "random_signs",
    "stochastic_lanczos",
]
