"""Means with their errors and intervals, and quadrature of a spectrum, on plain arrays."""
