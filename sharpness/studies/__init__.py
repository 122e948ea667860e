"""Recipes for the talk's figures and tables."""

from sharpness.studies.figures import METHODS, Figures, figures_of, make_figures
from sharpness.studies.flattening import OPERATIONS, make_flattening_study
from sharpness.studies.grid import Study
from sharpness.studies.microbenchmark import make_microbenchmark
from sharpness.studies.summary import to_markdown

__all__ = [
    "METHODS",
    "OPERATIONS",
    "Figures",
    "Study",
    "figures_of",
    "make_figures",
    "make_flattening_study",
    "make_microbenchmark",
    "to_markdown",
]
