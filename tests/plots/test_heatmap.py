"""A value per layer and class: the right cell, the right colour, the same scale."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from sharpness.errors import UserError
from sharpness.plots import new_figure, plot_layer_class, plot_layer_class_grid, style

LAYERS = ["backbone.conv1.weight", "backbone.layer1.0.conv1.weight", "head.weight"]
VALUES = np.array([[1.0, 10.0], [np.nan, -2.0], [0.0, 1000.0]])


@pytest.fixture
def ax():
    return Figure(layout="constrained").subplots()


def test_the_first_layer_is_on_top_and_classes_keep_their_order(ax):
    plot_layer_class(np.abs(VALUES) + 1, LAYERS, ["many", "few"], ax, log=False)
    assert ax.yaxis_inverted()
    assert [t.get_text() for t in ax.get_yticklabels()] == ["conv1", "layer1.0.conv1", "head"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["many", "few"]
    np.testing.assert_array_equal(ax.images[0].get_array(), np.abs(VALUES) + 1)


def test_cells_off_the_logarithmic_scale_are_masked_and_have_a_key(ax):
    plot_layer_class(VALUES, LAYERS, ["many", "few"], ax)
    positive, other = ax.images
    np.testing.assert_array_equal(positive.get_array().mask, [[False, False], [True, True], [True, False]])
    np.testing.assert_array_equal(~other.get_array().mask, [[False, False], [False, True], [True, False]])
    assert (positive.norm.vmin, positive.norm.vmax) == (1.0, 1000.0)
    assert ax.patch.get_hatch()
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [r"$\leq 0$", "no value"]


def test_a_full_picture_needs_no_key(ax):
    plot_layer_class(np.ones((3, 2)), LAYERS, ["many", "few"], ax)
    assert ax.get_legend() is None
    assert len(ax.images) == 1


def test_negative_values_belong_on_a_linear_scale(ax):
    plot_layer_class(VALUES, LAYERS, ["many", "few"], ax, log=False)
    assert ax.images[0].get_array().mask.sum() == 1
    assert (ax.images[0].norm.vmin, ax.images[0].norm.vmax) == (-1000, 1000)


def test_the_colour_bar_is_labelled_points_beyond_its_ends_and_can_be_left_out(ax):
    plot_layer_class(VALUES, LAYERS, ["many", "few"], ax, limits=(5.0, 100.0), label="trace")
    bar = ax.images[0].axes.figure.axes[-1]
    assert bar.get_ylabel() == "trace"
    assert bar._colorbar.extend == "both"
    alone = Figure().subplots()
    plot_layer_class(VALUES, LAYERS, ["many", "few"], alone, colorbar=False)
    assert alone.figure.axes == [alone]


def test_shapes_that_do_not_match_are_told(ax):
    with pytest.raises(UserError, match=r"values of shape \(3, 2\) for 3 layers and 3 classes"):
        plot_layer_class(VALUES, LAYERS, ["a", "b", "c"], ax)


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("size", [(3.35, 2.2), (3.35, 4.0), (6.9, 4.0)])
def test_labels_of_33_layers_do_not_overlap(classes, size):
    with style():
        ax = new_figure(*size).subplots()
    layers = ["backbone.conv1.weight"]
    layers += [f"backbone.layer{i}.{j}.conv{k}.weight" for i in (1, 2, 3) for j in range(5) for k in (1, 2)]
    layers += ["head.weight", "head.bias"]
    names, counts = [f"class{i}" for i in range(classes)], np.geomspace(5000, 50, classes).astype(int)
    plot_layer_class(np.ones((33, classes)), layers, names, ax, counts=counts)
    ax.figure.draw_without_rendering()
    rows = [t.get_window_extent() for t in ax.get_yticklabels()]
    assert all(upper.y0 > lower.y0 + 0.5 * lower.height for upper, lower in zip(rows, rows[1:], strict=False))
    columns = [t.get_window_extent() for t in ax.get_xticklabels()]
    assert all(left.x1 < right.x0 for left, right in zip(columns, columns[1:], strict=False))


def test_a_grid_has_a_panel_per_model_on_one_scale_with_one_bar():
    panels = {"a": VALUES, "b": 100 * VALUES, "c": np.full((3, 2), np.nan)}
    figure = plot_layer_class_grid(panels, LAYERS, ["many", "few"], label="trace", title="all", columns=2)
    drawn = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title() for ax in drawn] == ["a", "b", "c"]
    assert {(ax.images[0].norm.vmin, ax.images[0].norm.vmax) for ax in drawn} == {(1.0, 1e5)}
    assert [ax.get_ylabel() for ax in figure.axes if ax.get_ylabel()] == ["trace"]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == [r"$\leq 0$", "no value"]
    assert figure.get_suptitle() == "all"
    figure.canvas.draw()
