"""One value per class and model: every number has its place, and says how sure it is."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from sharpness.plots import PAGE, plot_class_values

NAMES = ["airplane", "cat", "truck"]


@pytest.fixture
def ax():
    return Figure(figsize=(PAGE, 2.4)).subplots()


def bars(ax):
    """(bars, 2) lower and upper ends of the error bars."""
    return np.concatenate([[p.vertices[:, 1] for p in c.get_paths()] for c in ax.collections])


def opened(ax):
    return [line for line in ax.lines if line.get_markerfacecolor() == "white"]


def test_models_stand_beside_each_other_within_their_class(ax):
    plot_class_values({"a": np.arange(3.0), "b": np.arange(3.0) + 10}, NAMES, ax)
    a, b = ax.lines[:2]
    np.testing.assert_array_equal(b.get_ydata(), [10, 11, 12])
    np.testing.assert_allclose((a.get_xdata() + b.get_xdata()) / 2, [0, 1, 2])
    assert (np.abs(np.concatenate([a.get_xdata(), b.get_xdata()]) - [0, 1, 2, 0, 1, 2]) < 0.5).all()
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["a", "b"]
    assert ax.get_xlabel() == "Class, most to fewest images"


def test_intervals_are_drawn_as_they_are_also_where_they_do_not_hold_the_value(ax):
    bounds = np.array([[0.9, 2.5, np.nan], [3.0, 2.8, np.nan]])
    plot_class_values({"a": np.array([1.0, 2.0, 3.0])}, NAMES, ax, intervals={"a": bounds})
    np.testing.assert_allclose(bars(ax), [[0.9, 3.0], [2.5, 2.8]])


def test_values_not_converged_are_open_and_the_legend_says_so(ax):
    flags = {"a": np.array([False, True, False]), "b": np.zeros(3, bool)}
    plot_class_values({"a": np.arange(3.0), "b": np.ones(3)}, NAMES, ax, flags=flags)
    (line,) = opened(ax)
    np.testing.assert_array_equal(line.get_ydata(), [1.0])
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["a", "b", "open: not converged"]


def test_the_legend_is_silent_when_all_are_converged(ax):
    plot_class_values({"a": np.arange(3.0)}, NAMES, ax, flags={"a": np.zeros(3, bool)})
    assert not opened(ax)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["a"]


def test_a_value_below_the_floor_that_is_not_converged_stands_on_the_floor_once(ax):
    flags = {"a": np.array([True, True, False])}
    plot_class_values({"a": np.array([1.0, 1e-9, 2.0])}, NAMES, ax, log=True, floor=1e-3, flags=flags)
    np.testing.assert_array_equal(np.concatenate([line.get_ydata() for line in opened(ax)]), [1.0, 1e-3])


def test_training_images_stand_below_the_names(ax):
    plot_class_values({"a": np.ones(3)}, NAMES, ax, counts=np.array([5000, 500, 50]))
    assert [t.get_text() for t in ax.get_xticklabels()] == ["airplane\n5000", "cat\n500", "truck\n50"]
    assert ax.get_xlabel() == "Class and its training images"


def test_of_a_hundred_classes_intervals_are_a_band_and_some_classes_have_counts(ax):
    v, counts = np.arange(100.0), np.arange(500, 400, -1)
    names = [str(c) for c in range(100)]
    plot_class_values({"a": v}, names, ax, intervals={"a": np.stack([v - 1, v + 2])}, counts=counts)
    (band,) = ax.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (-1, 101)
    labels = [t.get_text() for t in ax.get_xticklabels()]
    assert labels[0] == "1\n500" and labels[-1] == "100\n401"
    assert len(labels) < 25


def test_the_title_clears_the_legend(ax):
    plot_class_values({"a": np.ones(3), "b": np.ones(3)}, NAMES, ax, title="two")
    ax.figure.draw_without_rendering()
    assert ax.title.get_window_extent().y0 >= ax.get_legend().get_window_extent().y1


def test_the_legend_says_what_bars_are_over(ax):
    ends = {"a": np.array([[0.5, 1.0, 2.0], [1.5, 3.0, 4.0]])}
    plot_class_values({"a": np.array([1.0, 2.0, 3.0])}, NAMES, ax, intervals=ends, over="5 draws")
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["a", "bars: 95 % over 5 draws"]


def test_bars_that_are_much_longer_than_the_values_leave_the_picture(ax):
    ends = {"a": np.array([[0.5, 1.0, 1e-3], [1.5, 3.0, 1e4]])}
    plot_class_values({"a": np.array([1.0, 2.0, 3.0])}, NAMES, ax, intervals=ends)
    low, high = ax.get_ylim()
    assert low <= 0.0 and 3 < high <= 6
    np.testing.assert_allclose(bars(ax)[2], [1e-3, 1e4])


def test_of_a_thousand_classes_blocks_are_drawn_and_the_ten_largest_named():
    values = np.random.default_rng(0).permutation(1000).astype(float)
    values[5] = np.nan
    flags = {"CE": values > 996}
    intervals = {"CE": np.stack([values - 1, values + 1])}
    ax = plot_class_values(
        {"CE": values}, [f"class {c}" for c in range(1000)], ax=None, flags=flags, intervals=intervals, over="images"
    )
    line = next(line for line in ax.lines if line.get_label() == "CE")
    blocks = np.array_split(values, 25)
    np.testing.assert_allclose(line.get_ydata(), [np.nanmedian(block) for block in blocks])
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert {round(v, 6) for b in blocks for v in np.nanquantile(b, (0.05, 0.95))} <= {round(v, 6) for v in band}
    named = [text.get_text() for text in ax.texts]
    assert named == [f"class {c}" for c in sorted(np.argsort(-np.nan_to_num(values, nan=-1))[:10])]
    boxes = [Text.get_window_extent(text) for text in ax.texts]  # without their lines
    assert not any(one.overlaps(other) for one, other in zip(boxes, boxes[1:], strict=False))
    told = [text.get_text() for text in ax.get_legend().get_texts()]
    assert told == ["CE", "median and 5 to 95 % of 40 neighbours; the 10 largest are named", "3 not converged"]
    assert ax.get_ylim()[1] > 1.2 * 1000 and len(ax.collections) == 1  # room for names; no band of intervals


def test_of_a_thousand_classes_none_is_named_where_many_are_the_largest():
    right = np.repeat([1.0, 0.0], 500)
    ax = plot_class_values({"a": right, "b": 1 - right}, [str(c) for c in range(1000)], log=False)
    assert not ax.texts
    assert "named" not in "".join(text.get_text() for text in ax.get_legend().get_texts())
    empty = plot_class_values({"a": np.full(300, np.nan)}, [str(c) for c in range(300)])
    assert not empty.texts


def test_of_many_classes_those_without_a_value_do_not_stand_on_the_floor():
    values = np.arange(2.0, 302.0)
    values[::2], values[1] = np.nan, np.inf
    ax = plot_class_values({"a": values}, [str(c) for c in range(300)], floor=1.0)
    line = next(line for line in ax.lines if line.get_label() == "a")
    blocks = np.array_split(np.where(np.isfinite(values), values, np.nan), 25)
    np.testing.assert_allclose(line.get_ydata(), [np.nanmedian(block) for block in blocks])


def test_of_a_thousand_classes_a_spread_that_is_not_drawn_is_not_told():
    of_two = np.stack([np.arange(1000.0), np.arange(1000.0) + 1])
    ax = plot_class_values({"a": of_two.mean(axis=0)}, [str(c) for c in range(1000)], trainings={"a": of_two})
    assert not [text for text in ax.get_legend().get_texts() if "training" in text.get_text()]
