"""Algorithms for symmetric linear operators that are given by their products with vectors."""

from typing import TYPE_CHECKING

from sharpness.curvature.density import stochastic_lanczos
from sharpness.curvature.lanczos import Eigenpairs, lanczos
from sharpness.curvature.recurrence import Extremes, extremes
from sharpness.curvature.trace import TraceEstimate, hutchinson, hutchpp
from sharpness.renamed import moved_names

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

if not TYPE_CHECKING:  # type checkers would accept any name as one of this package
    __getattr__ = moved_names(
        __name__, ends="ENDS", lanczos="lanczos_memory", lanczos_state="LanczosState", operator="random_signs"
    )
