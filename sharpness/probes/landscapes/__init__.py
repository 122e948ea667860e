"""Probes of lines and planes through models, and the grids on which they are evaluated."""
