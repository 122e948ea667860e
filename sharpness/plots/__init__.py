"""Plotting from plain arrays: every function takes numbers and Axes, and returns the Axes."""

from sharpness.plots.bars import plot_class_values
from sharpness.plots.characteristic_radius import BoundCurve, plot_agreement, plot_bound, plot_bound_panels, plot_radii
from sharpness.plots.colors import shared_limits
from sharpness.plots.density import density_floor, plot_density
from sharpness.plots.dots import DotColumn, plot_dots
from sharpness.plots.heatmap import plot_layer_class, plot_layer_class_grid
from sharpness.plots.interactive import interactive_surfaces, save_html
from sharpness.plots.levels import shared_levels
from sharpness.plots.lines import plot_line_panels, plot_lines
from sharpness.plots.options import PlotOptions
from sharpness.plots.outlines import outline_basins
from sharpness.plots.panels import Marks, Panel
from sharpness.plots.planes import plot_plane_grid, plot_planes
from sharpness.plots.spectrum_ends import plot_saddle_indicator, plot_spectrum_ends
from sharpness.plots.spread import plot_rises, plot_spread
from sharpness.plots.style import COLUMN, PAGE, figure_of, new_figure, save_figure, stacked_axes, style

__all__ = [
    "COLUMN",
    "PAGE",
    "BoundCurve",
    "DotColumn",
    "Marks",
    "Panel",
    "PlotOptions",
    "density_floor",
    "figure_of",
    "interactive_surfaces",
    "new_figure",
    "outline_basins",
    "plot_agreement",
    "plot_bound",
    "plot_bound_panels",
    "plot_class_values",
    "plot_density",
    "plot_dots",
    "plot_layer_class",
    "plot_layer_class_grid",
    "plot_line_panels",
    "plot_lines",
    "plot_plane_grid",
    "plot_planes",
    "plot_radii",
    "plot_rises",
    "plot_saddle_indicator",
    "plot_spectrum_ends",
    "plot_spread",
    "save_figure",
    "save_html",
    "shared_levels",
    "shared_limits",
    "stacked_axes",
    "style",
]
