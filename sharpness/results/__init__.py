"""Frozen results: tables, files, provenance, plots."""

from sharpness.results.base import Result
from sharpness.results.characteristic_radius import CharacteristicRadiusResult
from sharpness.results.comparison import Comparison, compare
from sharpness.results.correlations import Correlations
from sharpness.results.density import SpectralDensityResult
from sharpness.results.eigenvalues import EigenvalueResult
from sharpness.results.layers import LayerResult
from sharpness.results.line import LineResult
from sharpness.results.measures import MeasureResult
from sharpness.results.optima import OptimaResult
from sharpness.results.owners import OwnersResult
from sharpness.results.perturbation import PerturbationResult
from sharpness.results.plane import PlaneResult
from sharpness.results.runs import Runs
from sharpness.results.saved import load_result
from sharpness.results.tables import with_errors

__all__ = [
    "CharacteristicRadiusResult",
    "Comparison",
    "Correlations",
    "EigenvalueResult",
    "LayerResult",
    "LineResult",
    "MeasureResult",
    "OptimaResult",
    "OwnersResult",
    "PerturbationResult",
    "PlaneResult",
    "Result",
    "Runs",
    "SpectralDensityResult",
    "compare",
    "load_result",
    "with_errors",
]
