"""Projected ascent of plain functions: inside the ball, never down, to maxima that are known."""

import numpy as np
import pytest
import scipy.optimize
import torch

from sharpness.engine.class_sums import ClassSums
from sharpness.probes.perturbations.projected_ascent import NORMS, Ball, ascend


class Function:
    """A loss of one vector, with its gradient by autograd; keeps the points where it was asked."""

    def __init__(self, function):
        self.function, self.points, self.slopes = function, [], []

    def value(self, u):
        self.points.append(u.clone())
        one = np.ones(1)
        return ClassSums(np.array([float(self.function(u))]), one, one, one)

    def gradient(self, u):
        self.slopes.append(u.clone())
        leaf = u.clone().requires_grad_()
        return torch.autograd.grad(self.function(leaf), leaf)[0]

    def climb(self, size, ball, steps, seed=0):
        center = torch.zeros(size, dtype=torch.float64)
        noise = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        best, taken = ascend(
            self.value, self.gradient, self.value(center), self.gradient(center), ball, steps, lambda: noise
        )
        assert len(self.slopes) == taken + 1 <= steps
        assert len(self.points) <= steps + 1
        return best.mean


def quadratic(a, g):
    a, g = torch.from_numpy(np.asarray(a, float)), torch.from_numpy(np.asarray(g, float))
    return Function(lambda u: 0.5 * u @ a @ u + g @ u)


def trust_region(a, g, rho):
    """The maximum of u'Au/2 + g'u in |u| <= rho, from its optimality condition (l I - A) u = g, l >= lambda_max, 0."""
    values, vectors = np.linalg.eigh(a)
    c = vectors.T @ g
    least = max(values[-1], 0.0)
    if values[-1] < 0 and np.linalg.norm(c / -values) <= rho:
        return float((c**2 / -values).sum() / 2)
    solved = scipy.optimize.brentq(
        lambda shift: np.linalg.norm(c / (shift - values)) - rho, least + 1e-12, least + np.linalg.norm(c) / rho + 1,
        xtol=1e-14,
    )  # fmt: skip
    u = c / (solved - values)
    return float(u @ (values * u) / 2 + c @ u)


SPECTRA = {
    "convex": [4.0, 2.0, 1.0, 0.5, 0.0],
    "indefinite": [2.0, 0.5, -1.0, -1.5, -3.0],
    "concave, maximum outside": [-0.1, -0.2, -0.3, -0.4, -0.5],
    "concave, maximum inside": [-10.0, -15.0, -20.0, -25.0, -30.0],
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("seed", range(4))
def test_many_steps_solve_the_trust_region_problem(name, seed, symmetric):
    a = symmetric(SPECTRA[name], seed)
    g = np.random.default_rng(seed).standard_normal(5)
    exact = trust_region(a, g, 0.5)
    found = quadratic(a, g).climb(5, Ball(0.5), 400)
    assert found <= exact * (1 + 1e-12)
    assert found == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("spectrum", [[8.0, 1.0, 0.5], [2.0, -5.0, -40.0], [3.0, 2.9, 0.0]])
def test_from_a_point_without_gradient_the_top_direction_is_found(spectrum, symmetric):
    function = quadratic(symmetric(spectrum), np.zeros(3))
    exact = 0.3**2 / 2 * spectrum[0]
    assert function.climb(3, Ball(0.3), 200) == pytest.approx(exact, rel=1e-3)
    assert quadratic(symmetric(spectrum), np.zeros(3)).climb(3, Ball(0.3), 1) == 0


def test_a_convex_quadratic_in_a_cube_is_largest_in_a_corner():
    function = quadratic(np.diag([3.0, 1.0, 0.2]), np.zeros(3))
    assert function.climb(3, Ball(0.3, "linf"), 3) == pytest.approx(0.3**2 / 2 * 4.2, rel=1e-12)
    g = np.array([0.1, -0.2, 0.3])
    found = quadratic(np.diag([3.0, 1.0, 0.2]), g).climb(3, Ball(0.3, "linf"), 1)
    assert found == pytest.approx(0.3**2 / 2 * 4.2 + 0.3 * 0.6, rel=1e-12)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("zero", [False, True])
def test_no_point_is_outside_the_ball(norm, scaled, zero, symmetric):
    scale = torch.tensor([0.5, 2.0, 0.0, 1.0], dtype=torch.float64) if scaled else None
    function = quadratic(symmetric([2.0, 1.0, -1.0, -3.0]), np.zeros(4) if zero else [1.0, -2.0, 3.0, 0.1])
    function.climb(4, Ball(0.7, norm, scale), 30)
    for point in function.points:
        if scaled:
            assert point[2] == 0
            point = point[[0, 1, 3]] / scale[[0, 1, 3]]
        assert float(point.norm() if norm == "l2" else point.abs().max()) <= 0.7 * (1 + 1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_more_steps_go_on_where_fewer_ended(norm):
    def rugged(u):
        return torch.sin(9 * u).sum() + torch.cos(4 * u[0] * u[1]) + u[2] ** 3

    longest = Function(rugged)
    longest.climb(3, Ball(1.0, norm), 40)
    found = []
    for steps in range(1, 40):
        function = Function(rugged)
        found.append(function.climb(3, Ball(1.0, norm), steps))
        assert all(torch.equal(a, b) for a, b in zip(function.points, longest.points, strict=False))
    assert found == sorted(found)


def test_a_loss_that_nothing_moves_ends_the_ascent():
    flat = Function(lambda u: 0 * u.sum() + 3)
    assert flat.climb(3, Ball(0.1), 50) == 3
    assert len(flat.points) == 2
    assert Function(lambda u: -u.square().sum()).climb(3, Ball(0.1), 20) == 0


def test_a_loss_that_is_not_finite_is_not_climbed_unless_it_is_infinite():
    found = Function(lambda u: torch.log(1 - u[0]) + 2 * u[0]).climb(1, Ball(3.0), 60)
    assert found == pytest.approx(1 - np.log(2), rel=1e-3)
    assert Function(lambda u: torch.exp(1e4 * u[0])).climb(1, Ball(1.0), 5) == np.inf
