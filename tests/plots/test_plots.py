"""Drawing: the numbers that go in are the numbers on the axes."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from sharpness import UserError
from sharpness.plots import (
    plot_class_values,
    plot_lines,
    plot_rises,
    plot_spread,
    save_figure,
)


@pytest.fixture
def ax():
    return Figure().subplots()


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


def test_the_legend_of_rises_tells_bands_over_trainings_from_those_over_draws():
    curve, trained = (np.array([0.0, 1.0]), np.array([0.0, 2.0]), np.array([0.0, 0.5])), np.array([[0.0, 1], [0, 3]])

    def told(labels, trainings):
        ax = plot_rises(dict.fromkeys(labels, curve), Figure().subplots(), trainings=trainings)
        return [text.get_text() for text in ax.get_legend().get_texts()][len(labels) :]

    several, single = ["± 1 sd over 2 trainings", "bar: ± 1 se over draws"], "band: ± one deviation of draws"
    assert told("ab", {"a": trained}) == [*several, f"of one training, {single}"]
    assert told("a", {"a": trained}) == several and told("ab", None) == [single]


def test_class_values_below_the_floor_stand_on_it_as_open_markers(ax):
    plot_class_values({"a": np.array([1.0, 1e-9])}, ["x", "y"], ax, log=True, floor=1e-3)
    markers = [line for line in ax.lines if line.get_markerfacecolor() == "white"]
    np.testing.assert_array_equal(markers[0].get_ydata(), [1e-3])
    assert ax.get_ylim()[0] == 1e-3


def test_a_hundred_classes_become_a_line_per_model(ax):
    plot_class_values({"a": np.arange(100.0)}, [str(c) for c in range(100)], ax)
    assert len(ax.get_xticklabels()) < 100


def test_equal_pictures_are_equal_files(tmp_path):
    def draw(name):
        figure = Figure()
        plot_lines({"a": (np.arange(3.0), np.arange(3.0))}, figure.subplots())
        return [p.read_bytes() for p in save_figure(figure, tmp_path / name)]

    assert draw("one") == draw("two.PNG") == draw("sam-0.5")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"{name}.{suffix}" for name in ("one", "sam-0.5", "two") for suffix in ("pdf", "png")
    ]
    for other in ("one.bmp", "one.svg", "one.nc"):
        with pytest.raises(UserError, match=f"{other}: .* as PDF and as PNG, give a name that ends in .pdf or .png"):
            draw(other)
