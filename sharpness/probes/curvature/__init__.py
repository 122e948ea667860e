"""Probes of curvature: eigenvalues, trace, spectral density, layers."""
