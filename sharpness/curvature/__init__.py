"""Algorithms on any symmetric linear operator given by its product with a vector."""

from sharpness.curvature.lanczos import ENDS, Eigenpairs, lanczos
from sharpness.curvature.trace import TraceEstimate, hutchinson

__all__ = ["ENDS", "Eigenpairs", "TraceEstimate", "hutchinson", "lanczos"]
