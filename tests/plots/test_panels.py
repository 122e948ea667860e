"""Cells of a grid."""

import numpy as np
import pytest

from sharpness.errors import UserError
from sharpness.plots import Panel
from sharpness.plots.panels import cell_edges, cells_path, check_panel


def test_every_point_lies_in_its_cell_and_cells_fill_the_range():
    positions = np.sort(np.random.default_rng(0).normal(size=9))
    for whole in (False, True):
        edges = cell_edges(positions, whole)
        assert (edges[:-1] <= positions).all() and (positions <= edges[1:]).all()
        assert (np.diff(edges) > 0).all()
    assert cell_edges(positions)[0] == positions[0]
    np.testing.assert_array_equal(cell_edges(positions[::-1]), cell_edges(positions)[::-1])


def test_the_path_covers_the_area_of_the_chosen_cells_and_no_other_point():
    x, y = np.array([0.0, 1.0, 3.0, 4.0]), np.array([0.0, 2.0, 3.0])
    chosen = np.random.default_rng(1).random((3, 4)) < 0.5
    path = cells_path(cell_edges(x, True), cell_edges(y, True), chosen)
    assert len(path.vertices) == 5 * chosen.sum()
    boxes = path.vertices.reshape(-1, 5, 2)
    areas = np.ptp(boxes[:, :, 0], axis=1) * np.ptp(boxes[:, :, 1], axis=1)
    cells = np.outer(np.diff(cell_edges(y, True)), np.diff(cell_edges(x, True)))
    assert areas.sum() == pytest.approx(cells[chosen].sum())
    for j, i in np.ndindex(chosen.shape):
        assert any((b.min(0) < (x[i], y[j])).all() and ((x[i], y[j]) < b.max(0)).all() for b in boxes) == chosen[j, i]


@pytest.mark.parametrize(
    ("x", "y", "shape", "message"),
    [
        ([0, 1], [0, 1], (2, 3), r"\(2, 3\) for 2 x 2 points"),
        ([0], [0, 1], (2, 1), "x holds 1 positions"),
        ([0, 1], [0, 0], (2, 2), "y holds 1 positions"),
        ([0, 2, 1], [0, 1], (2, 3), "in order"),
    ],
)
def test_what_has_no_area_is_refused(x, y, shape, message):
    with pytest.raises(UserError, match=message):
        check_panel("a", Panel(np.array(x, float), np.array(y, float), np.zeros(shape)))
