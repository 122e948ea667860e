"""Means with standard errors and intervals, and quadrature of spectra, on plain arrays."""

from sharpness.statistics.estimate import effective_samples, interval, mean_and_error, mean_interval_of, wilson
from sharpness.statistics.quadrature import DensityCurve, SpectralQuadrature

__all__ = [
    "DensityCurve",
    "SpectralQuadrature",
    "effective_samples",
    "interval",
    "mean_and_error",
    "mean_interval_of",
    "wilson",
]
