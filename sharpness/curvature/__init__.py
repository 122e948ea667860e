"""Algorithms on any symmetric linear operator given by its product with a vector."""

from sharpness.curvature.density import stochastic_lanczos
from sharpness.curvature.lanczos import Eigenpairs, lanczos
from sharpness.curvature.recurrence import Extremes, extremes
from sharpness.curvature.trace import TraceEstimate, hutchinson, hutchpp

__all__ = [
    "Eigenpairs",
    "Extremes",
    "TraceEstimate",
    "extremes",
    "hutchinson",
    "hutchpp",
    "lanczos",
    "stochastic_lanczos",
]
