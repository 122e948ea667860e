"""The radius per class as tables and as pictures."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from sharpness import UserError, characteristic_radius, load_result

COUNTS = (3, 90, 20)


@pytest.fixture(scope="module")
def found(pair):
    return characteristic_radius(pair, COUNTS, scale=0.1, steps=2)


def test_the_frame_has_a_row_for_all_samples_and_one_for_every_class(found):
    frame = found.to_frame()
    assert list(frame.columns) == [
        "model", "class", "group", "samples", "n", "k", "weight_norm", *found["a"].names, "clamped",
    ]  # fmt: skip
    one = frame[frame.model == "b"].set_index("class")
    assert list(one.index) == ["all", "owl", "cat", "dog"]
    assert one.n.tolist() == [113, 3, 90, 20] and one.samples.tolist() == [14, 2, 8, 4]
    assert one.group.tolist() == ["", "few", "many", "few"]
    assert one.rho["dog"] == found["b"].rho[2] and one.step["dog"] == found["b"].step[2]
    assert one.measured["all"] == found["b"].of("measured")
    assert (one.k == 43).all() and not one.clamped.any()
    np.testing.assert_allclose(one.step, 0.1 * one.k**0.5 * one.rho)


def test_the_curves_are_a_tidy_table(found):
    curves = found["a"].curves()
    assert len(curves) == 4 * len(found["a"].factors)
    np.testing.assert_allclose(curves.bound, curves.linear + curves.complexity)
    np.testing.assert_allclose(curves.length, 43**0.5 * curves.rho)
    best = curves[np.isclose(curves.factor, 1)].set_index("class").bound
    assert best["owl"] == pytest.approx(found["a"].of("bound", "owl"))
    assert (curves.groupby("class").bound.min()[best.index] >= best * (1 - 1e-12)).all()


def test_numbers_are_of_all_of_a_class_by_name_or_by_index(found):
    r = found["a"]
    assert r.of("rho", "dog") == r.of("rho", 2) == r.rho[2] != r.of("rho")
    assert r.count() == 113 and r.count("cat") == 90
    for wrong in ("cow", 3, -1, "few"):
        with pytest.raises(UserError, match="no class"):
            r.of("rho", wrong)
    with pytest.raises(UserError, match="unknown measure, class or group 'radius': choose one of loss"):
        r.of("radius")


def test_a_model_is_drawn_with_a_panel_for_all_and_for_each_class_from_most_to_fewest_images(found):
    axes = found["a"].plot()
    assert [ax.get_title() for ax in axes] == [
        "all, n = 113",
        "class cat, n = 90",
        "class dog, n = 20",
        "class owl, n = 3",
    ]
    for ax, row in zip(axes, (None, 1, 2, 0), strict=True):
        lines = {line.get_label(): line.get_ydata() for line in ax.lines}
        np.testing.assert_array_equal(lines["loss, measured"], found["a"].curve(row).measured)
        np.testing.assert_array_equal(lines["bound"], found["a"].curve(row).bound)


def test_on_one_axes_all_samples_or_one_class_are_drawn(found):
    for subset, title in ((None, "all, n = 113"), ("owl", "class owl, n = 3")):
        ax = Figure().subplots()
        assert found["a"].plot(ax, of=subset) is ax
        assert ax.get_title() == title


def test_several_models_and_subsets_are_a_grid(found):
    axes = found.plot(kind="bound", of=[None, "owl"])
    assert [ax.get_title() for ax in axes] == [
        "a: all, n = 113", "a: class owl, n = 3", "b: all, n = 113", "b: class owl, n = 3",
    ]  # fmt: skip


def test_models_are_compared_by_predicted_and_measured_rise_or_by_radius(found):
    ax = found.plot(Figure().subplots())
    filled = [line for line in ax.lines if line.get_label() in ("a", "b")]
    for label, line in zip("ab", filled, strict=True):
        m = found[label].names.index("measured")
        kept = found[label].values[m] > 0
        np.testing.assert_array_equal(line.get_ydata(), found[label].values[m][kept])
    assert "0.1" in ax.get_xlabel()
    ax = found.plot(Figure().subplots(), kind="radius")
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), COUNTS)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), found["a"].rho)


def test_any_column_can_be_drawn_per_class(found):
    ax = found.plot(Figure().subplots(), measure="worst")
    m = found["a"].names.index("worst")
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), found["a"].values[m][[1, 2, 0]])


def test_unknown_pictures_are_refused(found):
    with pytest.raises(UserError, match="picture"):
        found.plot(kind="curve")


def test_a_file_reads_back_with_its_curves(found, tmp_path):
    again = load_result(found["a"].save(tmp_path / "r.nc"))
    assert again.to_frame().equals(found["a"].to_frame())
    assert again.curves().equals(found["a"].curves())
    assert repr(again) == repr(found["a"]) and "rho*" in repr(again)


def test_a_column_is_drawn_with_the_options_of_every_picture(found):
    look = {"palette": ["#ff0000", "#0000ff"], "order": ["b", "a", "dog", "owl"], "figsize": (5, 4)}
    ax = found.plot(measure="rho", title="Radii", log=True, **look)
    assert ax.get_title() == "Radii" and ax.figure.get_size_inches().tolist() == [5, 4]
    assert [label.get_text().split("\n")[0] for label in ax.get_xticklabels()] == ["dog", "owl"]
    assert ax.lines[0].get_color() == (1.0, 0.0, 0.0)
