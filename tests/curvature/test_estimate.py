"""Intervals against scipy's, and how often they cover the truth."""

import numpy as np
import pytest
from scipy import stats

from sharpness.statistics.estimate import effective_samples, interval, mean_interval_of, wilson


@pytest.mark.parametrize(("right", "samples"), [(10, 10), (0, 7), (3, 5), (1, 1), (490, 500)])
def test_wilsons_interval_is_scipys(right, samples):
    expected = stats.binomtest(right, samples).proportion_ci(method="wilson")
    np.testing.assert_allclose(wilson(right / samples, samples), expected, atol=1e-12)


def test_no_samples_have_no_interval():
    assert np.isnan(wilson([np.nan, 0.5], [0, 0])).all()
    assert np.isnan(interval(1.0, 0.1, [0, -1])).all()
    assert effective_samples(np.zeros(0)) == 0


@pytest.mark.parametrize("freedom", [1, 4, 29, np.inf])
def test_students_interval_is_scipys(freedom):
    expected = stats.t.interval(0.95, freedom, loc=3.0, scale=0.7)
    np.testing.assert_allclose(interval(3.0, 0.7, freedom), expected)
    np.testing.assert_allclose(np.log(interval(3.0, 0.7, freedom, keeps_sign=True) / 3), np.subtract(expected, 3) / 3)
    np.testing.assert_allclose(interval(-3.0, 0.7, freedom, True), -interval(3.0, 0.7, freedom, True)[::-1])


def test_a_share_of_weighted_samples_counts_the_effective_ones():
    a = np.array([1.0] * 10 + [3.0] * 10)
    assert effective_samples(a) == pytest.approx(40**2 / (10 + 90))
    random, covered = np.random.default_rng(0), 0
    for _ in range(2000):
        right = random.random(20) < 0.7
        low, high = wilson((a * right).sum() / a.sum(), effective_samples(a))
        covered += low <= 0.7 <= high
    assert 0.93 <= covered / 2000 <= 0.985


@pytest.mark.parametrize("samples", [5, 20])
def test_intervals_of_positive_means_are_positive_and_cover(samples):
    """Of exponential values, skewed as losses are: the symmetric interval covers less, and reaches below zero."""
    x = np.random.default_rng(1).exponential(size=(5000, samples))
    mean, error = x.mean(axis=1), x.std(axis=1, ddof=1) / samples**0.5
    kept, plain = (interval(mean, error, samples - 1, keeps) for keeps in (True, False))
    cover = [np.mean((ends[0] <= 1) & (ends[1] >= 1)) for ends in (kept, plain)]
    assert (kept > 0).all() and cover[0] > cover[1] and 0.91 <= cover[0] <= 0.97


def test_five_draws_take_students_quantile():
    x = np.random.default_rng(2).standard_normal((20_000, 5))
    ends = interval(x.mean(axis=1), x.std(axis=1, ddof=1) / 5**0.5, 4)
    assert np.mean((ends[0] <= 0) & (ends[1] >= 0)) == pytest.approx(0.95, abs=0.006)


def test_the_interval_of_a_mean_of_shares_covers_it():
    truth, samples = np.array([0.98, 0.9, 0.6]), np.array([5, 10, 40])
    random, covered = np.random.default_rng(3), 0
    for _ in range(4000):
        shares = random.binomial(samples, truth) / samples
        low, high = mean_interval_of(shares, wilson(shares, samples))
        covered += low <= truth.mean() <= high
    assert 0.93 <= covered / 4000 <= 0.98


def test_the_interval_of_a_mean_of_normal_estimates_is_the_normal_one():
    values, errors = np.array([1.0, -2.0, 0.5]), np.array([0.1, 0.4, 0.2])
    expected = interval(values.mean(), np.linalg.norm(errors) / 3)
    np.testing.assert_allclose(mean_interval_of(values, interval(values, errors)), expected)
