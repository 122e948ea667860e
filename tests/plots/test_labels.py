"""Names around a picture: short, complete, and not on top of each other."""

import numpy as np
import pytest

from sharpness.plots import new_figure, style
from sharpness.plots.labels import label_classes, legend_above, short_names

CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def new_axes(width, height=2.4):
    with style():
        return new_figure(width, height).subplots()


def overlapping(boxes):
    boxes = sorted(boxes, key=lambda b: b.x0)
    return any(left.x1 > right.x0 for left, right in zip(boxes, boxes[1:], strict=False))


@pytest.mark.parametrize("width", [3.35, 6.9])
@pytest.mark.parametrize("counts", [None, np.geomspace(5000, 50, 10).astype(int)])
def test_names_of_ten_classes_do_not_overlap(width, counts):
    ax = new_axes(width)
    label_classes(ax, CIFAR, counts)
    ax.figure.draw_without_rendering()
    assert not overlapping([t.get_window_extent() for t in ax.get_xticklabels()])
    assert all(t.get_text().startswith(n) for t, n in zip(ax.get_xticklabels(), CIFAR, strict=True))


@pytest.mark.parametrize("width", [1.5, 3.35, 6.9])
@pytest.mark.parametrize("classes", [31, 100, 365, 1000, 8142])
def test_of_many_classes_the_first_the_last_and_some_between_are_numbered(width, classes):
    ax = new_axes(width)
    label_classes(ax, [f"c{i}" for i in range(classes)], np.linspace(1280, 5, classes).astype(int))
    ax.figure.draw_without_rendering()
    ticks = ax.get_xticks()
    assert ticks[0] == 0 and ticks[-1] == classes - 1
    assert [t.get_text().split("\n")[0] for t in ax.get_xticklabels()] == [str(int(x) + 1) for x in ticks]
    assert not overlapping([t.get_window_extent() for t in ax.get_xticklabels()])


def test_short_names_of_a_residual_network():
    names = ["backbone.conv1.weight"]
    names += [f"backbone.layer{i}.{j}.conv{k}.weight" for i in (1, 2, 3) for j in range(5) for k in (1, 2)]
    short = short_names([*names, "head.weight", "head.bias"])
    assert short[:3] == ["conv1", "layer1.0.conv1", "layer1.0.conv2"]
    assert short[-2:] == ["head", "head.bias"]


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["weight"],
        ["a.weight", "b.a.weight"],
        ["blocks.0.attn.weight", "blocks.1.attn.weight"],
        ["net.a.weight", "a.weight"],
        ["module.fc.weight", "module.fc.bias"],
    ],
)
def test_short_names_stay_distinct_and_never_begin_with_a_number(names):
    short = short_names(names)
    assert len(set(short)) == len(names)
    assert all(s and not s[0].isdigit() for s in short)


@pytest.mark.parametrize("width", [3.35, 6.9])
def test_a_legend_stays_within_the_figure_and_above_the_data(width):
    ax = new_axes(width)
    for label in ("CE", "LDAM-DRW", "MiSLAS", "GCL", "CC-SAM"):
        ax.plot([0, 1], [0, 1], label=label)
    legend_above(ax, "a title")
    ax.figure.draw_without_rendering()
    box = ax.get_legend().get_window_extent()
    assert box.x1 <= ax.figure.bbox.x1
    assert box.y0 >= ax.bbox.y1
    assert ax.title.get_window_extent().y0 >= box.y1


def test_nothing_to_tell_is_no_legend():
    ax = new_axes(3.35)
    legend_above(ax)
    assert ax.get_legend() is None
