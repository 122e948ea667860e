"""Both ends of the spectrum per class, and how much of a saddle they make."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from sharpness.plots import PAGE, plot_saddle_indicator, plot_spectrum_ends

NAMES = ["many", "medium", "few"]
LARGEST = {"a": np.array([10.0, 100.0, 1000.0]), "b": np.array([1.0, 2.0, np.nan])}
SMALLEST = {"a": np.array([-1.0, -30.0, -900.0]), "b": np.array([0.5, -2.0, -3.0])}


@pytest.fixture
def ax():
    return Figure(figsize=(PAGE, 2.8)).subplots()


def test_every_model_spans_from_its_smallest_to_its_largest_eigenvalue(ax):
    plot_spectrum_ends(LARGEST, SMALLEST, NAMES, ax)
    spans = [[p.vertices[:, 1].tolist() for p in c.get_paths()] for c in ax.collections]
    assert spans[0] == [[-1, 10], [-30, 100], [-900, 1000]]
    assert spans[1][:2] == [[0.5, 1], [-2, 2]]
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), LARGEST["a"])
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), SMALLEST["a"])
    np.testing.assert_array_equal(ax.lines[3].get_ydata(), SMALLEST["b"])
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["a", "b"]
    assert ax.get_yscale() == "linear"
    low, high = ax.get_ylim()
    assert low < -900 and high > 1000


def test_models_of_a_class_stand_side_by_side_with_both_ends_in_line(ax):
    plot_spectrum_ends(LARGEST, SMALLEST, NAMES, ax)
    above_a, below_a, above_b, _ = (line.get_xdata() for line in ax.lines[:4])
    np.testing.assert_array_equal(above_a, below_a)
    assert (above_a < above_b).all() and (above_b[:-1] < above_a[1:]).all()


def test_a_symlog_axis_has_powers_of_ten_of_both_signs(ax):
    plot_spectrum_ends(LARGEST, SMALLEST, NAMES, ax, linthresh=1)
    assert ax.get_yscale() == "symlog"
    assert ax.get_yticks().tolist() == [-1000, -100, -10, -1, 0, 1, 10, 100, 1000]
    low, high = ax.get_ylim()
    assert low < -900 and high > 1000


def test_ends_that_are_not_converged_are_open(ax):
    none = np.zeros(3, bool)
    flags = ({"a": none, "b": none}, {"a": np.array([False, False, True]), "b": none})
    plot_spectrum_ends(LARGEST, SMALLEST, NAMES, ax, flags=flags)
    (line,) = [line for line in ax.lines if line.get_markerfacecolor() == "white"]
    assert line.get_ydata().tolist() == [-900]
    assert ax.get_legend().get_texts()[-1].get_text() == "open: not converged"


def test_intervals_of_both_ends_are_drawn(ax):
    ends = [{label: np.stack([v - 1, v + 2]) for label, v in end.items()} for end in (LARGEST, SMALLEST)]
    plot_spectrum_ends(LARGEST, SMALLEST, NAMES, ax, intervals=(ends[0], ends[1]))
    drawn = [p.vertices[:, 1].tolist() for c in ax.collections for p in c.get_paths()]
    assert [9, 12] in drawn and [-2, 1] in drawn


def test_of_a_hundred_classes_a_model_is_two_curves(ax):
    v = np.linspace(1, 50, 100)
    plot_spectrum_ends({"a": v}, {"a": -v / 2}, [str(i) for i in range(100)], ax, counts=np.arange(100, 0, -1))
    assert [line.get_linestyle() for line in ax.lines[:2]] == ["-", "--"]
    assert not ax.collections
    assert ax.get_xticklabels()[-1].get_text() == "100\n1"
    assert "dashed" in ax.get_legend().get_texts()[-1].get_text()


def test_the_saddle_indicator_holds_the_ratios_between_lines_at_0_and_1(ax):
    plot_saddle_indicator({"a": np.array([0.0, 0.25, np.nan])}, NAMES, ax, counts=np.array([50, 20, 5]))
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [0.0, 0.25, np.nan])
    assert [line.get_ydata() for line in ax.lines if line.get_linestyle() == "--"] == [[0, 0], [1, 1]]
    assert [t.get_text() for t in ax.texts] == ["minimum", "balanced\nsaddle"]
    low, high = ax.get_ylim()
    assert low < 0 and high > 1
    assert ax.get_xticklabels()[0].get_text() == "many\n50"


def test_the_saddle_indicator_shows_ratios_above_one_and_passes_options_on(ax):
    plot_saddle_indicator(
        {"a": np.array([0.0, 0.25, 3.0])}, NAMES, ax, flags={"a": np.array([False, False, True])},
        intervals={"a": np.array([[0.0, 0.2, 2.0], [0.1, 0.3, 4.0]])}, title="t", xlabel="x", ylabel="y",
    )  # fmt: skip
    assert ax.get_ylim()[1] > 4
    assert ax.get_legend().get_texts()[-1].get_text() == "open: not converged"
    assert (ax.get_title(), ax.get_xlabel(), ax.get_ylabel()) == ("t", "x", "y")


@pytest.mark.parametrize("classes", [3, 300])
def test_a_spread_over_trainings_is_told_where_it_is_drawn(classes, ax):
    largest = {"a": np.arange(classes) + 2.0}
    of_two = {"a": np.stack([largest["a"], largest["a"]])}
    plot_spectrum_ends(largest, largest, [str(c) for c in range(classes)], ax, trainings=(of_two, of_two))
    told = [text.get_text() for text in ax.get_legend().get_texts()]
    assert ("± 1 sd over 2 trainings" in told) == (classes == 3)
