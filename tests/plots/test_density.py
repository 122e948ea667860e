"""Spectral densities: bumps of single eigenvalues are seen, tails of the smoothing are not."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from sharpness.errors import UserError
from sharpness.plots import density_floor, new_figure, plot_density, style


@pytest.fixture
def ax():
    return Figure().subplots()


def curve(eigenvalues, weights, grid=None):
    grid = np.linspace(-20, 120, 1401) if grid is None else grid
    kernels = np.exp(-((grid[:, None] - np.asarray(eigenvalues)) ** 2) / 2) / np.sqrt(2 * np.pi)
    density = kernels @ np.asarray(weights)
    return grid, density, density / 2, density * 2


def test_the_floor_is_a_power_of_ten_below_the_lowest_peak():
    few = curve([0, 100], [1, 2e-6])
    assert density_floor({"a": few}) == 1e-8
    assert density_floor({"a": few, "b": curve([0, 50], [1, 1e-4])}) == 1e-8
    assert density_floor({"b": curve([0, 50], [1, 1e-4])}) == 1e-6


def test_the_floor_is_at_most_ten_decades_down_and_survives_an_empty_density():
    assert density_floor({"a": curve([0, 100], [1, 1e-30])}) >= 1e-11
    assert density_floor({"a": (np.arange(3.0), np.zeros(3), np.zeros(3), np.zeros(3))}) > 0


def test_a_curve_ends_on_the_floor_and_leaves_a_gap_below(ax):
    grid, density, lower, upper = curve([0, 100], [1, 1e-3])
    plot_density({"a": (grid, density, lower, upper)}, ax, floor=1e-6)
    drawn = ax.lines[0].get_ydata()
    seen = density >= 1e-6
    np.testing.assert_array_equal(drawn[seen], density[seen])
    assert np.nanmin(drawn) == 1e-6
    assert np.isnan(drawn[np.abs(grid - 50) < 20]).all()
    assert (drawn == 1e-6).sum() == 4  # each of the two bumps ends twice
    assert ax.get_yscale() == "log"
    assert ax.get_ylim()[0] == 1e-6


def test_the_band_is_between_the_bounds_and_never_below_the_floor(ax):
    grid, density, _, upper = curve([0], [1])
    plot_density({"a": (grid, density, np.full_like(density, -1.0), upper)}, ax, floor=1e-4)
    heights = np.concatenate([p.vertices[:, 1] for p in ax.collections[0].get_paths()])
    assert heights.min() == 1e-4
    assert heights.max() == upper.max()


def test_limits_hold_what_is_seen_of_all_models(ax):
    plot_density({"a": curve([0], [1]), "b": curve([0, 100], [1, 1e-3])}, ax, floor=1e-6)
    low, high = ax.get_xlim()
    assert -20 < low < -5 and 100 < high < 120


def test_marks_stand_on_the_axis_in_the_colour_of_their_model(ax):
    curves = {"a": curve([0], [1]), "b": curve([0, 100], [1, 1e-3])}
    plot_density(curves, ax, marks={"b": np.array([-1.5, 100.0])}, floor=1e-6)
    mark = ax.lines[-1]
    np.testing.assert_array_equal(mark.get_xdata(), [-1.5, 100.0])
    np.testing.assert_array_equal(mark.get_ydata(), [1e-6, 1e-6])
    assert mark.get_color() == ax.lines[1].get_color() != ax.lines[0].get_color()
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        "a",
        "b",
        "extreme eigenvalues",
        "bands: 95 % over random vectors",
    ]


def test_marks_of_an_unknown_model_are_refused(ax):
    with pytest.raises(UserError, match="unknown label of marks 'c': choose one of a"):
        plot_density({"a": curve([0], [1])}, ax, marks={"c": np.zeros(1)})


def test_a_symlog_axis_has_ticks_of_both_signs_that_do_not_overlap():
    with style():
        ax = new_figure().subplots()
    grid = np.concatenate([-np.geomspace(300, 1e-3, 300), np.geomspace(1e-3, 500, 300)])
    flat = np.ones_like(grid)
    plot_density({"a": (grid, flat, flat / 2, flat * 2)}, ax, floor=0.1, linthresh=0.01)
    ax.figure.draw_without_rendering()
    ticks = ax.get_xticks()
    assert 0 in ticks and ticks.min() <= -10 and ticks.max() >= 10
    boxes = [t.get_window_extent() for t in ax.get_xticklabels()]
    assert all(left.x1 < right.x0 for left, right in zip(boxes, boxes[1:], strict=False))


def test_bands_are_over_random_vectors_only_of_models_with_a_single_training(ax):
    curves = {"a": curve([0], [1]), "b": curve([0], [1])}
    both = {label: np.stack([density, 2 * density]) for label, (_, density, _, _) in curves.items()}
    for trainings, told in ((both, False), ({"a": both["a"]}, True)):
        plot_density(curves, ax, trainings=trainings)
        texts = [text.get_text() for text in ax.get_legend().get_texts()]
        assert "± 1 sd over 2 trainings" in texts and ("bands: 95 % over random vectors" in texts) == told
