"""Contours on one Axes: the right lines at the right places, and cells that are not finite as what they are."""

import numpy as np
import pytest
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure

from sharpness.plots import Panel, outline_basins, plot_planes
from sharpness.plots.contours import line_colors


@pytest.fixture
def ax():
    return Figure().subplots()


def not_finite(ax):
    return [p for p in ax.patches if p.get_gid() == "not finite"]


def contour_sets(ax, filled):
    return [c for c in ax.collections if isinstance(c, QuadContourSet) and c.filled == filled]


@pytest.mark.parametrize("kind", ["filled", "contour", "heatmap"])
def test_x_is_horizontal_and_y_vertical(ax, kind, bowl):
    plot_planes({"a": bowl}, ax, kind=kind, colorbar=False)
    assert ax.get_xlim()[0] <= -1 and ax.get_xlim()[1] >= 1
    assert ax.get_ylim()[0] <= -0.5 and ax.get_ylim()[1] >= 1
    if kind != "heatmap":
        assert (*ax.get_xlim(), *ax.get_ylim()) == (-1, 1, -0.5, 1)


def test_contour_lines_of_a_slope_are_where_it_has_their_level(ax):
    x, y = np.linspace(-1, 1, 4), np.linspace(-2, 2, 3)
    slope = np.add.outer(10 * y, x)
    levels = np.linspace(-15, 15, 13)
    plot_planes({"a": Panel(x, y, slope)}, ax, kind="contour", levels=levels)
    drawn = contour_sets(ax, filled=False)[0]
    for level, path in zip(drawn.levels, drawn.get_paths(), strict=True):
        np.testing.assert_allclose(path.vertices @ [1, 10], level, atol=1e-9)
    assert len(drawn.levels) and set(drawn.levels) <= set(levels)


def test_lines_carry_their_values(ax, bowl):
    plot_planes({"a": bowl}, ax, kind="contour", levels=np.linspace(0, 3, 13))
    labels = {text.get_text() for text in ax.texts}
    assert labels and labels <= {"0.75", "1.50", "2.25"}


def test_narrow_panels_have_every_second_line(bowl):
    levels = np.linspace(0, 3, 13)
    wide, narrow = Figure(figsize=(4, 3)).subplots(), Figure(figsize=(7, 2)).subplots(1, 6)[0]
    for ax in (wide, narrow):
        plot_planes({"a": bowl}, ax, kind="contour", levels=levels)
    assert set(contour_sets(narrow, False)[0].levels) == set(levels[::2]) & set(contour_sets(wide, False)[0].levels)


def test_a_surface_that_crosses_no_line_says_between_which_it_lies(ax):
    flat = Panel(np.arange(3.0), np.arange(3.0), np.full((3, 3), 1.4))
    plot_planes({"a": flat}, ax, kind="contour", levels=np.array([0.0, 1.0, 2.0]))
    assert [t.get_text() for t in ax.texts] == ["1 to 2"]


@pytest.mark.parametrize(("value", "text"), [(0.4, "below 1"), (7.0, "above 3")])
def test_a_surface_beyond_all_lines_says_on_which_side(ax, value, text):
    flat = Panel(np.arange(3.0), np.arange(3.0), np.full((3, 3), value))
    plot_planes({"a": flat}, ax, kind="contour", levels=np.array([1.0, 2.0, 3.0]))
    assert [t.get_text() for t in ax.texts] == [text]


def test_outlines_follow_the_cells_of_descending_axes(ax):
    x, y, mask = np.array([2.0, 1.0, 0.0]), np.array([0.0, 1.0, 2.0]), np.zeros((3, 3), bool)
    mask[:, 0] = True  # cells around x = 2
    outline_basins(ax, x, y, [(mask, 2.0, 0.0, True)])
    lines = np.concatenate([p.vertices for c in contour_sets(ax, filled=False) for p in c.get_paths()])
    assert (lines[:, 0].min(), lines[:, 0].max()) == pytest.approx((1.5, 2.5), abs=1e-4)


def test_what_is_above_the_last_line_is_grey_and_named(ax, bowl):
    plot_planes({"a": bowl}, ax, kind="contour", levels=np.linspace(0, 1, 13))
    assert contour_sets(ax, filled=True)[0].levels[0] == 1
    assert "above the last line" in [t.get_text() for t in ax.get_legend().get_texts()]


@pytest.mark.parametrize("kind", ["filled", "contour", "heatmap"])
def test_exactly_the_cells_that_are_not_finite_are_hatched(ax, kind, torn):
    plot_planes({"a": torn}, ax, kind=kind)
    (patch,) = not_finite(ax)
    assert patch.get_hatch()
    boxes = patch.get_path().vertices.reshape(-1, 5, 2)
    for j, i in np.ndindex(torn.z.shape):
        point = np.array([torn.x[i], torn.y[j]])
        covered = any((b.min(0) <= point).all() and (point <= b.max(0)).all() for b in boxes)
        assert covered == (not np.isfinite(torn.z[j, i]))
    assert [t.get_text() for t in ax.get_legend().get_texts()][-1] == "not finite"
    ax.figure.canvas.draw()


def test_a_finite_plane_has_no_hatching_and_no_key(ax, bowl):
    plot_planes({"a": bowl}, ax, levels=np.linspace(0, 4, 13))
    assert not not_finite(ax) and ax.get_legend() is None


def test_finite_cells_beside_lost_ones_keep_their_own_colour(ax, torn):
    plot_planes({"a": torn}, ax)
    (raster,) = [c for c in ax.collections if not isinstance(c, QuadContourSet)]
    shown = ~np.ma.getmaskarray(raster.get_array()).reshape(torn.z.shape)
    lost = ~np.isfinite(torn.z)
    beside = np.zeros_like(lost)
    for j, i in np.argwhere(lost):
        beside[max(j - 1, 0) : j + 2, max(i - 1, 0) : i + 2] = True
    np.testing.assert_array_equal(shown, beside & ~lost)
    np.testing.assert_array_equal(raster.get_array().reshape(torn.z.shape)[shown], torn.z[shown])
    np.testing.assert_array_equal(raster.norm.boundaries, contour_sets(ax, True)[0].norm.boundaries)


def test_a_heatmap_holds_every_finite_value(ax, torn):
    plot_planes({"a": torn}, ax, kind="heatmap")
    raster = ax.collections[0].get_array().reshape(torn.z.shape)
    np.testing.assert_array_equal(np.ma.getmaskarray(raster), ~np.isfinite(torn.z))
    np.testing.assert_array_equal(raster.compressed(), torn.z[np.isfinite(torn.z)])


@pytest.mark.parametrize("kind", ["filled", "contour", "heatmap", "surface"])
@pytest.mark.parametrize("finite", [1, 2, 3])
def test_almost_nothing_finite_still_draws(kind, finite):
    z = np.full((3, 3), np.nan)
    z.flat[:finite] = 1.0, *[2.0] * (finite - 1)
    axes = plot_planes({"a": Panel(np.arange(3.0), np.arange(3.0), z)}, kind=kind)
    axes[0].figure.canvas.draw()


def test_descending_axes_are_drawn_upright(ax, bowl):
    turned = Panel(bowl.x[::-1], bowl.y[::-1], bowl.z[::-1, ::-1])
    plot_planes({"a": turned}, ax, kind="heatmap")
    assert ax.get_xlim()[0] < ax.get_xlim()[1] and ax.get_ylim()[0] < ax.get_ylim()[1]


def test_lines_are_never_pale():
    for colors in ("viridis", "viridis_r"):
        shades = line_colors(colors)(np.linspace(0, 1, 50))[:, :3]
        assert (shades @ [0.2126, 0.7152, 0.0722]).max() < 0.75
