"""Polyharmonic splines against scipy's, and their residuals against leaving points out."""

import numpy as np
import pytest
from scipy.interpolate import RBFInterpolator

from sharpness.probes.landscapes.polyharmonic import PolyharmonicSpline


@pytest.fixture
def centers():
    return np.random.default_rng(0).uniform(-1, 1, (40, 2))


@pytest.fixture
def values(centers):
    x, y = centers.T
    return np.stack([np.exp(x) * np.cos(3 * y), np.abs(x - y)], axis=1)


def oracle(centers, values, points):
    return RBFInterpolator(centers, values, kernel="cubic", degree=2)(points)


def test_values_are_those_of_scipy(centers, values):
    points = np.random.default_rng(1).uniform(-1, 1, (30, 2))
    found, power = PolyharmonicSpline(centers)(points, values)
    np.testing.assert_allclose(found, oracle(centers, values, points), atol=1e-9)
    assert (power > 0).all()


def test_at_the_centres_values_are_exact_and_certain(centers, values):
    found, power = PolyharmonicSpline(centers)(centers, values)
    np.testing.assert_allclose(found, values, atol=1e-10)
    np.testing.assert_allclose(power**2, 0, atol=1e-9)


def test_residuals_are_what_the_other_centres_miss(centers, values):
    residuals, standardised = PolyharmonicSpline(centers).standardised_residuals(values)
    for i in range(0, len(centers), 7):
        others = np.delete(np.arange(len(centers)), i)
        missed = values[i] - oracle(centers[others], values[others], centers[[i]])[0]
        np.testing.assert_allclose(residuals[i], missed, rtol=1e-6, atol=1e-9)
        _, power = PolyharmonicSpline(centers[others])(centers[[i]], values[others])
        np.testing.assert_allclose(standardised[i], missed / power, rtol=1e-5, atol=1e-8)


def test_quadratics_are_reproduced(centers):
    def quadratic(points):
        x, y = points.T
        return (1 + x - 2 * y + 3 * x**2 - x * y + 0.5 * y**2)[:, None]

    points = np.random.default_rng(2).uniform(-2, 2, (20, 2))
    found, _ = PolyharmonicSpline(centers)(points, quadratic(centers))
    np.testing.assert_allclose(found, quadratic(points), atol=1e-9)


def test_centres_on_a_line_interpolate_along_it():
    line = np.stack([np.linspace(-1, 1, 9), np.zeros(9)], axis=1)
    spline = PolyharmonicSpline(line)
    assert spline.rank == 3
    found, _ = spline(np.array([[0.1, 0.0]]), line[:, :1] ** 2)
    assert found[0, 0] == pytest.approx(0.01, abs=1e-12)
