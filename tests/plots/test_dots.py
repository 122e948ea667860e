"""Dots with intervals: every number at its row, panels of a column on one scale, and what is missing is seen."""

import numpy as np
import pytest

from sharpness.errors import UserError
from sharpness.plots import DotColumn, plot_dots

ROWS = ["CE", "GCL", "MiSLAS"]


def numbers(value, half=0.5):
    value = np.asarray(value, dtype=float)
    return np.stack([value, value - half, value + half])


@pytest.fixture
def axes():
    left = {
        "all": {"a": numbers([1, 2, 3]), "b": numbers([-9, 0, 9])},
        "few": {"a": numbers([0, 0, 0]), "b": numbers([1, 1, 40])},
    }
    right = {
        "all": {"a": numbers([1, 10, 100]), "b": numbers([1, 2, np.nan])},
        "few": {"a": numbers([1, 1, 1]), "b": numbers([2, 2, 2])},
    }
    return plot_dots([DotColumn("points", left, 0), DotColumn("ratio", right, 1, log=True)], ROWS)  # fmt: skip


def dots(ax):
    return {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}


def test_values_stand_in_their_rows_and_series_below_each_other(axes):
    drawn = dots(axes[0])
    np.testing.assert_array_equal(drawn["a"].get_xdata(), [1, 2, 3])
    for row in range(3):
        a, b = drawn["a"].get_ydata()[row], drawn["b"].get_ydata()[row]
        assert row - 0.5 < a < row < b < row + 0.5
    assert [t.get_text() for t in axes[0].get_yticklabels()] == ROWS
    assert axes[0].get_ylim() == (2.5, -0.5), "the first row is on top"


def test_intervals_reach_from_the_lower_to_the_upper_end(axes):
    ends = np.concatenate([[p.vertices[:, 0] for p in c.get_paths()] for c in axes[0].collections])
    np.testing.assert_allclose(ends[:3], [[0.5, 1.5], [1.5, 2.5], [2.5, 3.5]])


def test_panels_of_a_column_share_their_scale_and_mark_the_reference(axes):
    (all_left, all_right, few_left, few_right) = axes
    assert all_left.get_xlim() == few_left.get_xlim() != all_right.get_xlim() == few_right.get_xlim()
    assert all_left.get_xlim()[1] > 40, "of the widest panel"
    assert [next(line for line in ax.lines if line.get_gid() == "reference").get_xdata()[0] for ax in axes] == [
        0,
        1,
        0,
        1,
    ]
    assert (few_left.get_xscale(), few_right.get_xscale()) == ("linear", "log")


def test_a_missing_value_is_a_cross_that_the_legend_explains(axes):
    (cross,) = [line for line in axes[1].lines if line.get_gid() == "no value"]
    assert cross.get_ydata() == dots(axes[1])["b"].get_ydata()[2]
    assert [t.get_text() for t in axes[0].get_figure().legends[0].get_texts()] == ["a", "b", "no value"]


def test_a_value_without_a_spread_is_open():
    one = numbers([1, 2, 3])
    one[1:, 1] = np.nan
    (ax,) = plot_dots([DotColumn("points", {"all": {"a": one}}, 0)], ROWS)
    (line,) = [line for line in ax.lines if line.get_gid() == "no spread"]
    assert (line.get_xdata(), line.get_markerfacecolor()) == ([2], "white")
    assert [t.get_text() for t in ax.get_figure().legends[0].get_texts()] == ["a", "open: one seed"]


def test_series_are_told_apart_by_colour_and_by_marker(axes):
    a, b = dots(axes[0]).values()
    assert a.get_color() != b.get_color() and a.get_marker() != b.get_marker()


def test_a_column_may_be_lower_than_the_first_and_has_an_axis_of_its_own():
    two, one = ({title: {"a": numbers([1])} for title in titles} for titles in ("xy", "z"))
    axes = plot_dots([DotColumn("", two), DotColumn("ratio", one)], ["CE"])
    assert [ax.get_title("left") for ax in axes] == ["x", "z", "y"]
    assert axes[1].get_xlabel() == "ratio"
    axes[0].get_figure().canvas.draw()
    assert any(label.get_visible() and label.get_text() for label in axes[1].get_xticklabels())


def test_a_column_higher_than_the_first_or_no_row_is_refused():
    one, two = {"x": {"a": numbers([1])}}, {"x": {"a": numbers([1])}, "y": {"a": numbers([1])}}
    with pytest.raises(UserError, match="columns that are no higher than the first"):
        plot_dots([DotColumn("", one), DotColumn("", two)], ["CE"])
    with pytest.raises(UserError, match="0 rows"):
        plot_dots([DotColumn("", one)], [])


@pytest.mark.parametrize("names", [["SWA:0.8:lr=0.05", "Focal-SAM:0.3:gamma=3.2:lam=0.8"], list("abcdefg")])
def test_the_legend_lies_within_the_figure_whatever_the_names(names):
    numbers = {name: np.array([[1.0, 2.0], [0.5, 1.5], [1.5, 2.5]]) for name in names}
    figure = plot_dots([DotColumn("x", {"panel": numbers})], ["one", "two"])[0].get_figure()
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width
