"""Recipes for the talk's figures and tables."""

from sharpness.studies.figures import (
    METHODS as METHODS,
    Figures as Figures,
    figures_of as figures_of,
    make_figures as make_figures,
)
from sharpness.studies.flattening import OPERATIONS as OPERATIONS, make_flattening_study as make_flattening_study
from sharpness.studies.grid import Study as Study
from sharpness.studies.microbenchmark import make_microbenchmark as make_microbenchmark
from sharpness.studies.summary import to_markdown as to_markdown
