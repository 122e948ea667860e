"""Drawing, from plain arrays: every function takes numbers and Axes, and returns the Axes."""

from sharpness.plots.bars import plot_class_values
from sharpness.plots.lines import plot_lines
from sharpness.plots.planes import plot_contours, plot_surfaces, shared_levels
from sharpness.plots.spread import plot_rises, plot_spread
from sharpness.plots.style import COLUMN, PAGE, new_figure, save_figure, style

__all__ = [
    "COLUMN",
    "PAGE",
    "new_figure",
    "plot_class_values",
    "plot_contours",
    "plot_lines",
    "plot_rises",
    "plot_spread",
    "plot_surfaces",
    "save_figure",
    "shared_levels",
    "style",
]
