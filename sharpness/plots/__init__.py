"""Drawing, from plain arrays: every function takes numbers and Axes, and returns the Axes.

``name as name`` makes a name public, for type checkers as well.
"""

from sharpness.plots.bars import plot_class_values as plot_class_values
from sharpness.plots.characteristic_radius import (
    BoundCurve as BoundCurve,
    plot_agreement as plot_agreement,
    plot_bound as plot_bound,
    plot_bound_panels as plot_bound_panels,
    plot_radii as plot_radii,
)
from sharpness.plots.colors import shared_limits as shared_limits
from sharpness.plots.density import density_floor as density_floor, plot_density as plot_density
from sharpness.plots.dots import DotColumn as DotColumn, plot_dots as plot_dots
from sharpness.plots.heatmap import plot_layer_class as plot_layer_class, plot_layer_class_grid as plot_layer_class_grid
from sharpness.plots.interactive import interactive_surfaces as interactive_surfaces, save_html as save_html
from sharpness.plots.levels import shared_levels as shared_levels
from sharpness.plots.lines import plot_line_panels as plot_line_panels, plot_lines as plot_lines
from sharpness.plots.options import PlotOptions as PlotOptions
from sharpness.plots.outlines import outline_basins as outline_basins
from sharpness.plots.panels import Marks as Marks, Panel as Panel
from sharpness.plots.planes import plot_plane_grid as plot_plane_grid, plot_planes as plot_planes
from sharpness.plots.spectrum_ends import (
    plot_saddle_indicator as plot_saddle_indicator,
    plot_spectrum_ends as plot_spectrum_ends,
)
from sharpness.plots.spread import plot_rises as plot_rises, plot_spread as plot_spread
from sharpness.plots.style import (
    COLUMN as COLUMN,
    PAGE as PAGE,
    figure_of as figure_of,
    new_figure as new_figure,
    save_figure as save_figure,
    stacked_axes as stacked_axes,
    style as style,
)
