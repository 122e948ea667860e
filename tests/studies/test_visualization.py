"""The talk's visualization: one scale for lines side by side, and flatness apart from where a loss begins."""

from dataclasses import replace

import numpy as np
import pytest

from sharpness.plots.levels import signed_levels
from sharpness.results import LineResult, PlaneResult
from sharpness.studies.visualization import draw_lines, draw_planes

X = np.linspace(-0.5, 0.5, 5)


def common(losses):
    shape = losses.shape
    classes = np.stack([losses, 3 * losses])
    middle = tuple(n // 2 for n in shape)
    return {
        "class_names": ("cat", "9"), "class_samples": np.array([8, 2]), "groups": {}, "provenance": {"label": "m"},
        "x": X, "losses": losses, "class_losses": classes, "class_accuracies": np.zeros_like(classes),
        "directions": "gaussian", "normalization": "filter", "seed": 0, "evaluated": np.ones(shape, bool),
        "interpolation_errors": np.zeros(shape),
        "class_interpolation_errors": np.zeros_like(classes), "base_loss": float(losses[middle]),
        "base_class_losses": classes[(slice(None), *middle)], "precision": "float32", "precision_error": 0.0,
        "class_precision_errors": np.zeros(2),
    }  # fmt: skip


@pytest.fixture
def bowl():
    return PlaneResult(y=X, **common(1 + np.add.outer(X**2, 2 * X**2)))


def test_a_rise_does_not_depend_on_where_the_loss_begins(bowl):
    lifted = replace(bowl, losses=bowl.losses + 5, base_loss=bowl.base_loss + 5)
    np.testing.assert_allclose(bowl.rises(), np.add.outer(X**2, 2 * X**2), atol=1e-12)
    np.testing.assert_allclose(lifted.rises(), bowl.rises())
    np.testing.assert_allclose(bowl.rises(1), 3 * bowl.rises(), atol=1e-12)


@pytest.mark.parametrize("low", [0.0, -1e-6, -0.4, -3.0])
def test_levels_of_rises_hold_all_but_the_highest_and_none_is_zero(low):
    rises = [np.linspace(low, 1.0, 50), np.array([np.nan, 7.0])]
    levels = signed_levels(rises, clip=0.9)
    assert signed_levels(rises)[-1] == pytest.approx(7), "nothing is cut off unless it is asked for"
    assert levels[0] <= low and levels[-1] == pytest.approx(np.quantile([*rises[0], 7.0], 0.9))
    assert (np.diff(levels) > 0).all() and 10 <= len(levels) <= 15
    assert min(abs(levels)) > 0
    assert levels[levels < 0][-1] == pytest.approx(-levels[levels > 0][0])


@pytest.mark.parametrize("kind", ["filled", "surface"])
def test_planes_show_rises_of_all_and_of_the_rarest_class(bowl, kind):
    lifted = replace(bowl, losses=bowl.losses + 5, base_loss=bowl.base_loss + 5)
    figure = draw_planes({0: {"a": bowl, "b": lifted}}, 1, kind)
    names = {t.get_text() for ax in figure.axes for t in ax.texts}
    assert {"All classes", "Rarest: class 9\n(2 images)"} == {n.replace("9 (", "9\n(") for n in names}
    bars = [ax for ax in figure.axes if ax.get_ylabel() == "Rise of the loss"]
    assert len(bars) == 2
    assert "in filter norms" in figure.get_supxlabel()
    if kind == "filled":
        first, second = (ax.collections[0] for ax in figure.axes[:2])
        for a, b in zip(first.get_paths(), second.get_paths(), strict=True):
            np.testing.assert_allclose(a.vertices, b.vertices, atol=1e-9)


def test_lines_side_by_side_have_one_scale():
    line = LineResult(**common(1 + X**2))
    axes = draw_lines({0: {"a": line}}, 1).axes
    assert axes[0].get_ylim() == axes[1].get_ylim()
    assert axes[0].get_ylim()[1] >= 3 * 0.25, "the highest of both"
    assert axes[1].get_title() == "Rarest: class 9 (2 images)"


def test_a_line_far_above_the_others_leaves_the_frame_and_is_named():
    heights = {"a": 1, "b": 2, "c": 1.5, "steep": 100}
    lines = {label: LineResult(**common(1 + height * X**2)) for label, height in heights.items()}
    left, right = draw_lines({0: lines}, 1).axes
    assert left.get_yscale() == "linear" and left.get_ylim() == right.get_ylim()
    assert 3 * 2 * 0.25 < right.get_ylim()[1] < 100 * 0.25, "the highest of the others is inside"
    told = [[t.get_text() for t in ax.texts] for ax in (left, right)]
    assert told == [["above the frame: steep to 25"], ["above the frame: steep to 75"]]


def test_directions_of_several_seeds_have_a_row_each_on_one_scale(bowl):
    steeper = replace(bowl, losses=1 + 4 * (bowl.losses - 1), class_losses=4 * bowl.class_losses - 3)
    figure = draw_planes({0: {"a": bowl}, 3: {"a": steeper}}, 1, "filled")
    names = {t.get_text().replace("\n", " ") for ax in figure.axes for t in ax.texts}
    titles = ("All classes", "Rarest: class 9 (2 images)")
    assert names == {f"{title}, directions {s}" for title in titles for s in (0, 3)}
    panels = [ax for ax in figure.axes if ax.collections and ax.get_ylabel() != "Rise of the loss"][:4]
    levels = [tuple(ax.collections[0].levels) for ax in panels]
    assert levels[0] == levels[1] != levels[2] == levels[3], "each subset on its own scale, which all seeds share"
    lines = [LineResult(**common(1 + k * X**2)) for k in (1, 4)]
    axes = draw_lines({0: {"a": lines[0]}, 3: {"a": lines[1]}}, 1).axes
    assert len(axes) == 4 and len({ax.get_ylim() for ax in axes}) == 1
    assert "direction 3" in axes[2].get_ylabel()
