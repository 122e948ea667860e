"""Stochastic Lanczos quadrature against dense spectra and exact moments."""

import numpy as np
import pytest
import torch
from scipy.stats import t as student

from sharpness import UserError
from sharpness.curvature.density import stochastic_lanczos
from sharpness.curvature.trace import hutchinson
from sharpness.statistics.quadrature import SpectralQuadrature

SEMICIRCLE = 2 * np.cos(np.pi * (np.arange(300) + 0.5) / 300)  # Chebyshev points: the arcsine law
SPECTRA = {
    "semi-circle": np.linalg.eigvalsh(
        (lambda g: (g + g.T) / np.sqrt(2 * 300))(np.random.default_rng(0).standard_normal((300, 300)))
    ),
    "arcsine": SEMICIRCLE,
    "two clusters": np.r_[np.linspace(-1, -0.8, 150), np.linspace(3, 3.5, 50)],
    "rank deficient": np.r_[np.zeros(150), np.linspace(1, 2, 30)],
    "negative": -np.geomspace(0.01, 5, 120),
    "bulk and outlier": np.r_[1e-3 * np.linspace(-1, 1, 200), 50.0],
}


def operator(matrix, calls=None):
    dense = torch.as_tensor(matrix)
    return lambda v: (calls.append(1) if calls is not None else None, dense @ v)[1]


@pytest.mark.parametrize("name", SPECTRA)
def test_moments_are_those_of_the_spectrum(name, symmetric):
    values = SPECTRA[name]
    rule = stochastic_lanczos(operator(symmetric(values)), len(values), draws=20, steps=12)
    for p in range(8):
        value, error = rule.moment(p)
        assert abs(value - np.mean(values**p)) <= 5 * error + 1e-12 * np.abs(values).max() ** p
    assert rule.moment(0) == pytest.approx((1.0, 0.0), abs=1e-14)


def test_the_first_moment_is_hutchinsons_estimate(symmetric):
    matrix = symmetric(SPECTRA["two clusters"])
    rule = stochastic_lanczos(operator(matrix), 200, draws=5, steps=7)
    trace = hutchinson(operator(matrix), 200, 5)
    value, error = rule.moment(1)
    assert (200 * value, 200 * error) == pytest.approx((trace.value, trace.standard_error), rel=1e-12)


@pytest.mark.parametrize("name", SPECTRA)
def test_the_density_is_that_of_the_dense_spectrum(name, symmetric):
    values = SPECTRA[name]
    rule = stochastic_lanczos(operator(symmetric(values)), len(values), draws=20, steps=40)
    width = 0.05 * (values.max() - values.min())
    curve = rule.density(width=width)
    kernel = np.exp(-0.5 * ((curve.grid[:, None] - values) / width) ** 2) / (width * np.sqrt(2 * np.pi))
    exact = kernel.mean(axis=1)
    assert np.abs(curve.density - exact).max() <= 0.06 * exact.max()
    inside = (curve.lower - 1e-9 <= exact) & (exact <= curve.upper + 1e-9)
    assert inside[exact > 0.01 * exact.max()].mean() > 0.6
    assert (curve.lower >= 0).all()
    assert (curve.lower <= curve.density).all()
    assert (curve.density <= curve.upper).all()


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("width", [None, 1e-6, 0.01, 10.0])
def test_the_default_grid_carries_all_mass(name, width, symmetric):
    values = SPECTRA[name]
    rule = stochastic_lanczos(operator(symmetric(values)), len(values), draws=3, steps=30)
    curve = rule.density(width=width)
    assert np.trapezoid(curve.density, curve.grid) == pytest.approx(1, abs=1e-3)
    assert (np.diff(curve.grid) > 0).all()


def test_the_mass_of_a_cluster_is_its_share(symmetric):
    rule = stochastic_lanczos(operator(symmetric(SPECTRA["two clusters"])), 200, draws=30, steps=20)
    for low, high, share in ((-2, 1, 0.75), (1, 4, 0.25), (1, 2, 0.0), (-np.inf, np.inf, 1.0)):
        value, error = rule.mass(low, high)
        assert abs(value - share) <= 4 * error + 1e-12
    assert rule.mass(-np.inf, np.inf) == (1.0, 0.0)
    assert rule.mass(1, 2) == (0.0, 0.0)


def test_the_cumulative_share_follows_the_dense_spectrum(symmetric):
    values = SPECTRA["semi-circle"]
    rule = stochastic_lanczos(operator(symmetric(values)), 300, draws=20, steps=60)
    grid = np.linspace(-2.5, 2.5, 41)
    share, error = rule.cumulative(grid)
    exact = np.searchsorted(np.sort(values), grid, side="right") / 300
    assert np.abs(share - exact).max() < 0.03
    assert (np.diff(share) >= 0).all()
    assert (share[0], share[-1], error[0], error[-1]) == (0, 1, 0, 0)
    assert rule.mass(-1, 0.5)[0] == pytest.approx(rule.cumulative([0.5])[0][0] - rule.cumulative([-1])[0][0])


def test_intervals_cover_mass_moments_and_density_as_often_as_they_claim(symmetric):
    values = np.r_[np.linspace(-1, -0.5, 25), np.linspace(2, 3, 15)]
    matrix = symmetric(values)
    covered = np.zeros(5)
    quantile = student.ppf(0.975, 5)
    at = np.array([-0.75, 2.5])
    exact_density = np.exp(-0.5 * ((at[:, None] - values) / 0.3) ** 2).mean(axis=1) / (0.3 * np.sqrt(2 * np.pi))
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        rule = stochastic_lanczos(operator(matrix), 40, draws=6, steps=8, generator=generator)
        pairs = [(rule.mass(0, 5), 15 / 40), (rule.moment(1), values.mean()), (rule.moment(3), np.mean(values**3))]
        covered[:3] += [abs(value - exact) <= quantile * error for (value, error), exact in pairs]
        curve = rule.density(at, width=0.3)
        covered[3:] += (curve.lower <= exact_density) & (exact_density <= curve.upper)
    assert (covered / 200 >= 0.90).all(), covered
    assert (covered / 200 <= 0.99).all(), covered


def test_questions_cost_no_product(symmetric):
    calls = []
    rule = stochastic_lanczos(operator(symmetric(SPECTRA["negative"]), calls), 120, draws=3, steps=10)
    assert rule.products == len(calls) == 30
    wide, narrow = rule.density(width=1.0), rule.density(width=0.01)
    rule.mass(0, 1), rule.moment(2), rule.cumulative(wide.grid)
    assert len(calls) == 30
    assert narrow.density.max() > wide.density.max()


def test_a_space_that_is_exhausted_ends_its_run(symmetric):
    values = np.r_[np.zeros(50), 1.0, 4.0]
    rule = stochastic_lanczos(operator(symmetric(values)), 52, draws=6, steps=40)
    assert rule.nodes.shape == (6, 40)
    assert rule.products == 18
    np.testing.assert_allclose(rule.nodes[:, :3], np.tile([0, 1, 4], (6, 1)), atol=1e-13)
    assert np.isnan(rule.nodes[:, 3:]).all()
    assert (rule.weights[:, 3:] == 0).all()
    np.testing.assert_allclose(rule.weights.sum(axis=1), 1, rtol=1e-15)
    assert np.isfinite(rule.density().upper).all()
    assert np.isfinite(rule.cumulative(np.linspace(-1, 5, 7))).all()


@pytest.mark.parametrize("eigenvalue", [1.0, -1e-8, 0.0])
def test_a_multiple_of_the_identity_is_one_peak(eigenvalue):
    rule = stochastic_lanczos(lambda v: eigenvalue * v, 30, draws=2, steps=10)
    assert rule.products == 2
    assert rule.moment(1) == pytest.approx((eigenvalue, 0), abs=1e-20)
    curve = rule.density()
    assert curve.grid[np.argmax(curve.density)] == pytest.approx(eigenvalue, abs=curve.width)
    assert np.trapezoid(curve.density, curve.grid) == pytest.approx(1, abs=1e-3)


def test_diagonal_operators_have_no_sampling_error():
    values = torch.linspace(-1, 2, 20, dtype=torch.float64)
    rule = stochastic_lanczos(lambda v: values * v, 20, draws=3, steps=20)
    assert rule.moment(3) == pytest.approx((float((values**3).mean()), 0), abs=1e-12)


def test_a_single_run_has_no_standard_error():
    rule = SpectralQuadrature(np.array([[0.0, 1.0]]), np.array([[0.5, 0.5]]), 5, 2)
    curve = rule.density()
    assert np.isfinite(curve.density).all()
    assert np.isnan(curve.lower).all()
    assert np.isnan(rule.mass(-1, 1)[1])


def test_float32_agrees_with_float64(symmetric):
    values = SPECTRA["two clusters"]
    dense = torch.as_tensor(symmetric(values))
    single = stochastic_lanczos(lambda v: dense.float() @ v, 200, draws=4, steps=20, dtype=torch.float32)
    double = stochastic_lanczos(lambda v: dense @ v, 200, draws=4, steps=20)
    assert single.moment(2) == pytest.approx(double.moment(2), rel=1e-5)
    assert single.mass(1, 4)[0] == pytest.approx(double.mass(1, 4)[0], abs=1e-5)


RULE = SpectralQuadrature(np.zeros((3, 4)), np.full((3, 4), 0.25), 5, 12)


@pytest.mark.parametrize("options", [{"draws": 1}, {"steps": 0}])
def test_bad_settings_are_refused(options):
    with pytest.raises(UserError):
        stochastic_lanczos(lambda v: v, 5, **options)


def test_bad_questions_are_refused():
    with pytest.raises(UserError, match="width"):
        RULE.density(width=0.0)
    with pytest.raises(UserError, match="p=-1"):
        RULE.moment(-1)


def test_a_product_that_overflows_is_reported():
    with pytest.raises(FloatingPointError, match="product 1"):
        stochastic_lanczos(lambda v: v * torch.inf, 5)
