"""Recipes for the talk's figures and tables."""

from sharpness.studies.figures import METHODS, Figures, make_figures
from sharpness.studies.summary import to_markdown

__all__ = ["METHODS", "Figures", "make_figures", "to_markdown"]
