"""Lines: the numbers that go in are the numbers on the axes."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from sharpness.errors import UserError
from sharpness.plots import plot_line_panels, plot_lines

X = np.arange(3.0)


@pytest.fixture
def ax():
    return Figure().subplots()


def test_lines_hold_the_numbers_and_leave_gaps_where_they_are_not_finite(ax):
    plot_lines({"a": (X, np.array([1.0, np.inf, 2.0])), "b": (X, X)}, ax)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [1.0, np.nan, 2.0])
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["a", "b", "not finite"]
    assert ax.get_xlabel() and ax.get_ylabel()


def test_crosses_stand_at_the_top_where_a_curve_is_not_finite_and_move_no_limit(ax):
    plot_lines({"a": (X, np.array([1.0, np.inf, 2.0])), "b": (X, np.array([np.nan, 1, 1]))}, ax)
    crosses = [line for line in ax.lines if line.get_gid() == "not finite"]
    assert [c.get_xdata().tolist() for c in crosses] == [[1.0], [0.0]]
    assert [c.get_color() for c in crosses] == [ax.lines[0].get_color(), ax.lines[2].get_color()]
    ax.figure.canvas.draw()
    assert ax.get_ylim()[0] > 0.9
    for c in crosses:
        top = ax.transAxes.inverted().transform(c.get_transform().transform(c.get_xydata()))[:, 1]
        assert (top > 0.8).all() and (top < 1).all()


def test_logarithmic_axes_and_zeros(ax):
    plot_lines({"a": (X, np.array([1.0, 0.0, 100.0]))}, ax, log=True)
    assert ax.get_yscale() == "log"
    ax.figure.canvas.draw()
    assert 0.1 < ax.get_ylim()[0] <= 1


def test_marks_are_ticks_with_names(ax):
    plot_lines({"a": (X, X)}, ax, marks=[("CE", 0.0), ("SAM", 1.0)], title="t")
    marks = [line for line in ax.lines if line.get_gid() == "mark"]
    assert [line.get_xdata()[0] for line in marks] == [0, 1]
    assert [t.get_text() for t in ax.texts] == ["CE", "SAM"]


def test_panels_share_limits_and_have_one_legend():
    axes = plot_line_panels({"CE": {"all": (X, X), "few": (X, 9 * X)}, "SAM": {"all": (X, -X), "few": (X, X)}})
    assert axes[0].get_ylim() == axes[1].get_ylim()
    assert axes[0].get_ylim()[0] <= -2 and axes[0].get_ylim()[1] >= 18
    assert [ax.get_title() for ax in axes] == ["CE", "SAM"]
    assert [t.get_text() for t in axes[0].figure.legends[0].get_texts()] == ["all", "few"]
    assert axes[0].lines[1].get_color() == axes[1].lines[1].get_color() != axes[0].lines[0].get_color()


def test_panels_take_as_many_axes_as_there_are():
    axes = Figure().subplots(1, 2)
    assert plot_line_panels({"a": {"all": (X, X)}, "b": {"all": (X, X)}}, axes) == list(axes)
    with pytest.raises(UserError, match="2 panels need 2 Axes, 1 were given"):
        plot_line_panels({"a": {"all": (X, X)}, "b": {"all": (X, X)}}, axes[0])
