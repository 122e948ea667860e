"""Trace estimators: unbiased, with the variance that theory gives them and intervals that keep their word."""

import numpy as np
import pytest
import torch

from sharpness import UserError
from sharpness.curvature.trace import hutchinson, hutchpp
from sharpness.statistics.estimate import interval

SPECTRA = {
    "indefinite": np.random.default_rng(0).standard_normal(40),
    "decaying": 10.0 / np.arange(1, 41) ** 1.5,
    "outliers": np.r_[np.linspace(-0.5, 1, 36), 20, 30, 40, 50],
}


def operator(matrix):
    dense = torch.as_tensor(matrix)
    return lambda v: dense @ v


def test_the_mean_is_the_trace_and_the_variance_twice_the_off_diagonal_squares(symmetric):
    matrix = symmetric(np.linspace(-1, 3, 12))
    probes = 4000
    estimate = hutchinson(operator(matrix), 12, probes)
    variance = 2 * (np.sum(matrix**2) - np.sum(np.diag(matrix) ** 2))
    assert abs(estimate.value - np.trace(matrix)) < 4 * (variance / probes) ** 0.5
    assert estimate.samples.var(ddof=1) == pytest.approx(variance, rel=0.1)


@pytest.mark.every(3)
@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize(("estimator", "budget"), [(hutchinson, 15), (hutchinson, 30), (hutchpp, 12), (hutchpp, 30)])
def test_intervals_cover_the_trace_as_often_as_they_claim(name, estimator, budget, symmetric):
    matrix = symmetric(SPECTRA[name])
    covered = 0
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        found = estimator(operator(matrix), 40, budget, generator=generator)
        low, high = interval(found.value, found.standard_error, len(found.samples) - 1)
        covered += low <= np.trace(matrix) <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_hutchpp_is_unbiased(symmetric):
    matrix = symmetric(SPECTRA["outliers"])
    values = [
        hutchpp(operator(matrix), 40, 9, generator=torch.Generator().manual_seed(seed)).value for seed in range(400)
    ]
    assert abs(np.mean(values) - np.trace(matrix)) < 4 * np.std(values) / 20


@pytest.mark.parametrize("rank", [0, 1, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_hutchpp_is_exact_for_operators_of_low_rank(rank, dtype, symmetric):
    values = np.r_[np.arange(1.0, rank + 1) * (-1) ** np.arange(rank), np.zeros(60 - rank)]
    dense = torch.as_tensor(symmetric(values), dtype=dtype)
    estimate = hutchpp(lambda v: dense @ v, 60, 12, dtype=dtype)
    eps = torch.finfo(dtype).eps
    assert estimate.value == pytest.approx(values.sum(), abs=200 * eps)
    assert estimate.standard_error <= 200 * eps
    assert estimate.products == 12


def test_hutchpp_beats_hutchinson_at_the_same_cost_where_a_few_eigenvalues_dominate(symmetric):
    matrix = symmetric(SPECTRA["outliers"])
    errors = {
        f: [f(operator(matrix), 40, 30, generator=torch.Generator().manual_seed(s)).standard_error for s in range(20)]
        for f in (hutchinson, hutchpp)
    }
    assert np.mean(errors[hutchpp]) < 0.2 * np.mean(errors[hutchinson])


@pytest.mark.parametrize("estimator", [hutchinson, hutchpp])
@pytest.mark.parametrize("budget", [6, 11, 30])
def test_the_budget_is_kept_and_every_product_reported(estimator, budget, symmetric):
    reported = []
    estimate = estimator(operator(symmetric(np.linspace(0, 1, 9))), 9, budget, callback=reported.append)
    assert estimate.products == sum(reported) == budget
    assert estimate.value == pytest.approx(estimate.samples.mean())
    assert estimate.value == pytest.approx(4.5, abs=6 * estimate.standard_error + 1e-12)


@pytest.mark.parametrize("estimator", [hutchinson, hutchpp])
def test_products_that_overflow_are_reported(estimator):
    with pytest.raises(FloatingPointError, match="product 1"):
        estimator(lambda v: v * torch.inf, 5, 6)


def test_too_few_products_for_a_standard_error_are_refused():
    with pytest.raises(UserError, match="at least 2"):
        hutchinson(lambda v: v, 3, 1)
    with pytest.raises(UserError, match="at least 6"):
        hutchpp(lambda v: v, 3, 5)
