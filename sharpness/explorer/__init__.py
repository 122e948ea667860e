"""Exploring saved results: in Jupyter, and as one HTML file."""

from sharpness.explorer.explorer import Explorer, explore

__all__ = ["Explorer", "explore"]
