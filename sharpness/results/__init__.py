"""Frozen results: tables, files, provenance, plots."""

from sharpness.results.base import Comparison, Result, load_result, with_errors
from sharpness.results.characteristic_radius import CharacteristicRadiusResult
from sharpness.results.density import SpectralDensityResult
from sharpness.results.eigenvalues import EigenvalueResult
from sharpness.results.layers import LayerResult
from sharpness.results.line import LineResult
from sharpness.results.measures import MeasureResult
from sharpness.results.perturbation import PerturbationResult
from sharpness.results.plane import PlaneResult

__all__ = [
    "CharacteristicRadiusResult",
    "Comparison",
    "EigenvalueResult",
    "LayerResult",
    "LineResult",
    "MeasureResult",
    "PerturbationResult",
    "PlaneResult",
    "Result",
    "SpectralDensityResult",
    "load_result",
]
