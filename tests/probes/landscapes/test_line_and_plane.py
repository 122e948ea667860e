"""Lines and planes: closed-form surfaces come out exactly, in the right cells."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from sharpness import Objective, UserError, line, plane
from sharpness.probes import Directions
from sharpness.probes.directions.gaussian import gaussian


def test_a_rectangular_plane_of_a_quadratic_is_exact_cell_by_cell(quadratic, symmetric):
    a = symmetric([3.0, 1.0, -2.0])
    objective = quadratic(a)
    w = objective.parameters[0].detach().numpy()
    d1, d2 = np.array([1.0, 0.5, 0.0]), np.array([0.0, -1.0, 2.0])
    result = plane(objective, (-1, 2, 4), (-0.5, 0.5, 3), directions=(torch.tensor(d1), torch.tensor(d2)))
    assert result.losses.shape == (3, 4)
    for j, y in enumerate([-0.5, 0.0, 0.5]):
        for i, x in enumerate([-1.0, 0.0, 1.0, 2.0]):
            at = w + x * d1 + y * d2
            assert result.losses[j, i] == pytest.approx(0.5 * at @ a @ at, rel=1e-12)
    assert result.directions == "given"


def test_class_surfaces_are_those_of_each_class(quadratic, symmetric):
    matrices = np.stack([symmetric([1.0, 2.0], 0), symmetric([-1.0, 5.0], 1), symmetric([0.0, 3.0], 2)])
    objective = quadratic(matrices, [0, 1, 1])
    w = objective.parameters[0].detach().numpy()
    result = plane(objective, (-1, 1, 3), (-1, 1, 3), directions=torch.eye(2, dtype=torch.float64))
    at = w + np.array([1.0, -1.0])
    by_class = [0.5 * at @ matrices[0] @ at, 0.5 * at @ matrices[1:].mean(0) @ at]
    np.testing.assert_allclose(result.class_losses[:, 0, 2], by_class, rtol=1e-12)
    assert result.losses[0, 2] == pytest.approx((by_class[0] + 2 * by_class[1]) / 3, rel=1e-12)


def test_the_centre_is_the_unperturbed_loss(case):
    objective = Objective(case.model, (case.x, case.y), case.loss, num_classes=3)
    assert line(objective, (-1, 1, 5)).losses[2] == objective.loss()
    surface = plane(objective, (-1, 1, 3), (-2, 2, 5))
    assert surface.losses[2, 1] == objective.loss()
    np.testing.assert_array_equal(surface.class_losses[:, 2, 1], objective.class_losses())


def test_along_the_top_eigenvector_the_loss_rises_by_half_the_eigenvalue_times_the_square(quadratic, symmetric):
    objective = quadratic(symmetric([6.0, 1.0, -3.0]), at_minimum=True)
    result = line(objective, (-1, 1, 5), "hessian")
    np.testing.assert_allclose(result.losses, 3.0 * result.x**2, rtol=1e-5, atol=1e-12)


def test_along_the_gradient_the_slope_is_its_norm(quadratic, symmetric):
    objective = quadratic(symmetric([2.0, 1.0]))
    result = line(objective, (-1e-4, 1e-4, 3), "gradient")
    slope = (result.losses[2] - result.losses[0]) / 2e-4
    assert slope == pytest.approx(float(objective.gradient().norm()), rel=1e-8)


def test_a_hessian_plane_is_a_quadratic_of_the_two_top_eigenvalues(quadratic, symmetric):
    objective = quadratic(symmetric([5.0, 2.0, 0.3, -1.0]), at_minimum=True)
    result = plane(objective, (-1, 1, 3), (-1, 1, 3), "hessian")
    x, y = np.meshgrid(result.x, result.y)
    np.testing.assert_allclose(result.losses, 2.5 * x**2 + y**2, rtol=1e-4, atol=1e-8)


def convolutional(factor=1.0):
    """A convolution before BatchNorm, scaled with its statistics: the same function for every factor."""
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4, eps=1e-12), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 2),
    ).double()  # fmt: skip
    x = torch.randn(20, 1, 6, 6, dtype=torch.float64)
    model(x)
    with torch.no_grad():
        model[0].weight.mul_(factor)
        model[1].running_mean.mul_(factor)
        model[1].running_var.mul_(factor**2)
    return Objective(model.eval(), (x, torch.arange(20) % 2))


def test_filter_normalised_lines_do_not_see_the_scale_of_a_convolution_before_batchnorm():
    plain, scaled = (line(convolutional(f), (-1, 1, 7)) for f in (1.0, 10.0))
    np.testing.assert_allclose(scaled.losses, plain.losses, rtol=1e-8)
    raw = [line(convolutional(f), (-1, 1, 7), normalization=None).losses for f in (1.0, 10.0)]
    assert not np.allclose(raw[0], raw[1], rtol=1e-2)


def test_a_line_is_seen_by_an_independent_copy_of_the_model(case):
    objective = Objective(case.model, (case.x, case.y), case.loss, num_classes=3)
    result = line(objective, (-0.5, 0.5, 3), seed=4)
    moved = copy.deepcopy(case.model)
    flat = gaussian(objective, 0, seed=4)
    with torch.no_grad():
        for p, d in zip(moved.parameters(), flat.split([p.numel() for p in moved.parameters()]), strict=True):
            p.add_(0.5 * d.view_as(p))
        expected = case.function(moved(case.x), case.y).mean()
    assert result.losses[2] == pytest.approx(float(expected), rel=1e-12)


def test_cells_that_overflow_stay_what_they_are():
    model = nn.Linear(1, 1, bias=False)
    objective = Objective(
        model, (torch.ones(2, 1), torch.tensor([0, 0])), loss=lambda u, t: u[:, 0].exp(), num_classes=1
    )
    result = line(objective, (0, 1000, 2), torch.ones(1))
    assert np.isfinite(result.losses[0])
    assert np.isposinf(result.losses[1])


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda o: line(o, (-1, 1)), "from, to, number of points"),
        (lambda o: line(o, (-1, 1, 2.5)), "from, to, number of points"),
        (lambda o: line(o, (-1, 1, 0)), "from, to, number of points"),
        (lambda o: line(o, (-1, 1, 3), "random"), "unknown directions 'random'"),
        (lambda o: line(o, (-1, 1, 3), torch.ones(7)), r"needs \(2,\)"),
        (lambda o: plane(o, (-1, 1, 3), (-1, 1, 3), (torch.ones(2),)), "a plane needs two"),
        (lambda o: plane(o, (-1, 1, 3), (-1, 1, 3), (torch.ones(2), torch.tensor([1, torch.nan]))), "not finite"),
        (lambda o: plane(o, directions=(torch.ones(2), torch.ones(2))), "parallel: a plane needs two"),
        (lambda o: plane(o, directions=(torch.ones(2), -2 * torch.ones(2))), "parallel"),
        (lambda o: plane(o, directions=(torch.ones(2), torch.zeros(2))), "a given direction is zero"),
        (lambda o: plane(o, directions=Directions.of(o, [torch.ones(2)] * 2, "given")), "parallel"),
        (lambda o: plane(o, directions=(torch.zeros(2), "gradient")), "a given direction is zero"),
        (lambda o: line(o, directions=torch.zeros(2)), "a given direction is zero"),
        (lambda o: line(o, seed="a"), "seed='a': give an integer, at least 0"),
        (lambda o: line(o, directions="hessian", seed=0.5), "seed=0.5: give an integer"),
    ],
)
def test_bad_settings_are_refused(quadratic, symmetric, act, message):
    with pytest.raises(UserError, match=message):
        act(quadratic(symmetric([1.0, 2.0])))
