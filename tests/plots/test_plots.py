"""Drawing: the numbers that go in are the numbers on the axes."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from sharpness.plots import (
    plot_class_values,
    plot_contours,
    plot_lines,
    plot_rises,
    plot_spread,
    plot_surfaces,
    save_figure,
    shared_levels,
)


@pytest.fixture
def ax():
    return Figure().subplots()


def test_lines_hold_the_numbers_and_leave_gaps_where_they_are_not_finite(ax):
    plot_lines({"a": (np.arange(3.0), np.array([1.0, np.inf, 2.0]))}, ax)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [1.0, np.nan, 2.0])
    assert ax.get_legend().get_texts()[0].get_text() == "a"
    assert ax.get_xlabel() and ax.get_ylabel()


def test_spread_shows_every_draw_its_mean_and_the_base(ax):
    plot_spread({"a": np.array([1.0, 3.0]), "b": np.array([5.0])}, ax, base={"a": 0.5, "b": 4.0})
    drawn = [line.get_ydata() for line in ax.lines]
    assert any(np.array_equal(y, [1.0, 3.0]) for y in drawn)
    assert any(np.array_equal(y, [0.5]) for y in drawn)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["a", "b"]


def test_rises_draw_mean_and_band(ax):
    plot_rises({"a": (np.array([0.0, 1.0]), np.array([0.0, 2.0]), np.array([0.0, 0.5]))}, ax)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [0.0, 2.0])
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == 2.5


def test_class_values_below_the_floor_stand_on_it_as_open_markers(ax):
    plot_class_values({"a": np.array([1.0, 1e-9])}, ["x", "y"], ax, log=True, floor=1e-3)
    markers = [line for line in ax.lines if line.get_markerfacecolor() == "white"]
    np.testing.assert_array_equal(markers[0].get_ydata(), [1e-3])
    assert ax.get_ylim()[0] == 1e-3


def test_a_hundred_classes_become_a_line_per_model(ax):
    plot_class_values({"a": np.arange(100.0)}, [str(c) for c in range(100)], ax)
    assert len(ax.get_xticklabels()) < 100


def test_levels_are_shared_span_the_data_and_grow_from_the_bottom():
    levels = shared_levels([np.array([[2.0, 6.0]]), np.array([[3.0, np.nan]])], number=4, clip=1.0)
    np.testing.assert_allclose(levels, 2 + 4 * np.array([0, 1 / 16, 4 / 16, 9 / 16, 1]))
    flat = shared_levels([np.ones((2, 2))])
    assert (np.diff(flat) > 0).all()


def test_contours_keep_x_horizontal_and_y_vertical(ax):
    x, y = np.linspace(-1, 1, 4), np.linspace(-2, 2, 3)
    z = np.add.outer(10 * y, x)
    plot_contours({"a": (x, y, z)}, ax)
    assert ax.get_xlim() == (-1, 1)
    assert ax.get_ylim() == (-2, 2)


def test_contours_and_surfaces_survive_cells_that_are_not_finite():
    x = y = np.linspace(-1, 1, 5)
    z = np.add.outer(y**2, x**2)
    z[0, 0], z[1, 1] = np.inf, np.nan
    figure = Figure()
    plot_contours({"a": (x, y, z)}, figure.subplots())
    plot_surfaces({"a": (x, y, z)}, Figure().subplots(subplot_kw={"projection": "3d"}))
    figure.canvas.draw()


def test_panels_share_one_scale():
    x = y = np.linspace(-1, 1, 5)
    z = np.add.outer(y**2, x**2)
    axes = Figure().subplots(1, 2)
    plot_contours({"a": (x, y, z), "b": (x, y, 9 * z)}, axes)
    scales = [ax.collections[0].norm for ax in axes]
    np.testing.assert_array_equal(scales[0].boundaries, scales[1].boundaries)


def test_as_many_axes_as_panels_are_needed(ax):
    x = y = np.linspace(-1, 1, 3)
    with pytest.raises(ValueError, match="2 panels need 2 Axes, 1 were given"):
        plot_contours({"a": (x, y, np.eye(3)), "b": (x, y, np.eye(3))}, ax)


def test_equal_pictures_are_equal_files(tmp_path):
    def draw(name):
        figure = Figure()
        plot_lines({"a": (np.arange(3.0), np.arange(3.0))}, figure.subplots())
        return [p.read_bytes() for p in save_figure(figure, tmp_path / name)]

    assert draw("one") == draw("two")
