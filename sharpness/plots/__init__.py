"""Drawing, from plain arrays: every function takes numbers and Axes, and returns the Axes."""

from sharpness.plots.bars import plot_class_values
from sharpness.plots.colors import shared_limits
from sharpness.plots.density import density_floor, plot_density
from sharpness.plots.heatmap import plot_layer_class, plot_layer_class_grid
from sharpness.plots.lines import plot_lines
from sharpness.plots.planes import plot_contours, plot_surfaces, shared_levels
from sharpness.plots.spectrum_ends import plot_saddle_indicator, plot_spectrum_ends
from sharpness.plots.spread import plot_rises, plot_spread
from sharpness.plots.style import COLUMN, PAGE, new_figure, save_figure, style

__all__ = [
    "COLUMN",
    "PAGE",
    "density_floor",
    "new_figure",
    "plot_class_values",
    "plot_contours",
    "plot_density",
    "plot_layer_class",
    "plot_layer_class_grid",
    "plot_lines",
    "plot_rises",
    "plot_saddle_indicator",
    "plot_spectrum_ends",
    "plot_spread",
    "plot_surfaces",
    "save_figure",
    "shared_levels",
    "shared_limits",
    "style",
]
