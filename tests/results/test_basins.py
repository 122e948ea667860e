"""Basins of surfaces whose minima and saddles are known."""

import numpy as np
import pytest
import torch
from torch import nn

from sharpness import Objective, UserError, plane
from sharpness.results.basins import basins_of, stability

X = np.linspace(-2, 2, 81)


def two_basins(tilt=0.0):
    """Minima near x = -1 and 1, a saddle of height 1 between."""
    x, y = np.meshgrid(X, X)
    return (x**2 - 1) ** 2 + y**2 + tilt * x


def test_depths_saddles_and_areas_of_two_basins_are_known():
    found = basins_of(two_basins(), X, X, model=(1.0, 0.0))
    assert [(b.x, b.y, b.bottom, b.saddle) for b in found.found] == [(-1, 0, 0, 1), (1, 0, 0, 1)]
    assert [b.depth for b in found.found] == [1, 1] and not any(b.open for b in found.found)
    assert found.own.x == 1
    # Below 1 the set has the area of both lobes together: its half by counting on a fine grid.
    fine = np.linspace(-2, 2, 1601)
    x, y = np.meshgrid(fine, fine)
    area = float(((x**2 - 1) ** 2 + y**2 < 1).mean() * 16 / 2)
    assert found.own.area == pytest.approx(area, rel=0.05)
    assert not (found.found[0].mask & found.found[1].mask).any()


def test_a_tilt_makes_one_the_deeper_and_the_other_the_younger():
    found = basins_of(two_basins(0.3), X, X, model=(0.0, 1.9))
    low, high = found.found
    assert low.x < 0 < high.x and low.depth > high.depth
    assert high.saddle == low.saddle == pytest.approx(max(((X**2 - 1) ** 2 + 0.3 * X)[20:61]), abs=1e-3)
    assert found.model is None and found.own is None


def test_shallow_dents_are_no_basins_and_walls_part():
    dented = two_basins() + 0.01 * np.random.default_rng(0).random((81, 81))
    assert len(basins_of(dented, X, X, least=0.1).found) == 2
    assert len(basins_of(dented, X, X, least=0.0).found) > 2
    walled = two_basins()
    walled[:, 40] = np.nan
    apart = basins_of(walled, X, X)
    assert len(apart.found) == 2 and all(np.isinf(b.saddle) and b.open for b in apart.found)


def test_a_bowl_is_one_open_basin_that_ends_at_the_edge():
    x, y = np.meshgrid(X, X)
    found = basins_of(x**2 + y**2, X, X)
    (bowl,) = found.found
    assert bowl.open and bowl.level == 4 and bowl.depth == 4 and found.own is bowl
    assert bowl.area == pytest.approx(np.pi * 4, rel=0.03)
    slope = basins_of(x, X, X)
    assert slope.found[0].x == -2 and slope.model is None


def flooded(z, start, level):
    """The cells below a level that a path below it connects to a start, by a flood of its own."""
    found, waiting = set(), [start]
    while waiting:
        j, i = waiting.pop()
        if (j, i) in found or not (0 <= j < z.shape[0] and 0 <= i < z.shape[1]) or not z[j, i] < level:
            continue
        found.add((j, i))
        waiting += [(j + dj, i + di) for dj in (-1, 0, 1) for di in (-1, 0, 1)]
    return found


def test_a_basin_between_two_others_ends_at_the_lower_pass():
    """Wells of 0, 1 and 2 in a row, with passes of 6 and 3 between them."""
    x, y = np.arange(13.0), np.arange(5.0)
    row = np.array([9, 5, 0, 5, 6, 3, 1, 2.5, 3, 2.5, 2, 5, 9])
    z = np.array([20.0, 10, 0, 10, 20])[:, None] + row
    for reverse in (False, True):
        across = z[:, ::-1] if reverse else z
        found = basins_of(across, x, y, least=0.5, model=(12 - 10, 2) if reverse else (10, 2))
        assert [(b.bottom, b.saddle, b.depth) for b in found.found] == [(0, 6, 6), (1, 3, 2), (2, 3, 1)]
        for basin in found.found:
            cells = flooded(across, (int(basin.y), int(basin.x)), basin.saddle)
            assert set(zip(*np.nonzero(basin.mask), strict=True)) == cells and basin.area == len(cells)
        assert found.found[1].area == 2 and found.own is found.found[2]
        assert not sum(b.mask.astype(int) for b in found.found).max() > 1
    # A third well that is too shallow is a part of the second, which then ends at its pass to the first.
    assert [(b.bottom, b.saddle) for b in basins_of(z, x, y, least=1.5).found] == [(0, 6), (1, 6)]


def test_a_model_outside_of_the_plane_is_in_no_basin():
    places = np.array([1.0, 2.0, 5.0])
    bowl = (places - 1) ** 2 + (X**2)[:, None]
    assert basins_of(bowl, places, X).model is None
    assert basins_of(bowl.T, X, places).model is None
    assert basins_of(bowl, places - 1, X).model == 0
    assert basins_of(bowl, places - 1 + 1e-16, X).model == 0, "an end at 0 may be rounded"


def test_seeds_give_means_and_spreads():
    planes = [basins_of(two_basins() * s, X, X, model=(1.0, 0.0)) for s in (1, 2, 3)]
    row = stability(planes).iloc[0]
    assert row.depth == pytest.approx(2) and row.depth_sd == pytest.approx(1) and row.holds_model == 1
    with pytest.raises(UserError, match="at least 2"):
        stability(planes[:1])


def test_planes_have_basins_that_their_pictures_outline():
    """The loss (w_1^2 - 1)^2 + w_2^2 around w = (1, 0)."""

    def double_well(u, t):
        return torch.where(t == 0, (u[:, 0] ** 2 - 1) ** 2, u[:, 0] ** 2) * 2

    model = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0]]))
    objective = Objective(model, (torch.eye(2).double(), torch.tensor([0, 1])), double_well, num_classes=2)
    axes = torch.eye(2, dtype=torch.float64)
    surface = plane(objective, x=(-3, 1, 41), y=(-1.5, 1.5, 31), directions=(axes[0], axes[1]), normalization=None)
    found = surface.basins()
    assert len(found.found) == 2 and found.own.x == pytest.approx(0, abs=1e-9)
    assert found.own.saddle == pytest.approx(1) and found.to_frame().holds_model.sum() == 1
    ax = surface.plot(basins=True)
    bottoms = sorted(line.get_xdata()[0] for line in ax.lines if line.get_gid() == "bottom")
    assert bottoms == pytest.approx([-2, 0], abs=1e-9)
    rows = surface.plot(of=[None, 0], kind="contour", basins=True)
    assert all(any(line.get_gid() == "bottom" for line in place.lines) for place in rows)
    with pytest.raises(UserError, match="outlines are of losses"):
        surface.plot(kind="surface", basins=True)
    with pytest.raises(UserError, match="least=-1"):
        surface.basins(least=-1)
