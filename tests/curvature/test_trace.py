"""Hutchinson's estimator: unbiased, with the variance that theory gives it."""

import numpy as np
import pytest
import torch

from sharpness import UserError
from sharpness.curvature import hutchinson


def test_the_mean_is_the_trace_and_the_variance_twice_the_off_diagonal_squares(symmetric):
    matrix = symmetric(np.linspace(-1, 3, 12))
    dense = torch.as_tensor(matrix)
    probes = 4000
    estimate = hutchinson(lambda v: dense @ v, 12, probes)
    variance = 2 * (np.sum(matrix**2) - np.sum(np.diag(matrix) ** 2))
    assert abs(estimate.value - np.trace(matrix)) < 4 * (variance / probes) ** 0.5
    assert estimate.samples.var(ddof=1) == pytest.approx(variance, rel=0.1)


def test_intervals_cover_the_trace_as_often_as_they_claim(symmetric):
    matrix = symmetric(np.random.default_rng(0).standard_normal(30))
    dense = torch.as_tensor(matrix)
    covered = 0
    for seed in range(200):
        e = hutchinson(lambda v: dense @ v, 30, 30, generator=torch.Generator().manual_seed(seed))
        covered += abs(e.value - np.trace(matrix)) <= 1.96 * e.standard_error
    assert 0.90 <= covered / 200 <= 0.99


def test_one_probe_has_no_standard_error():
    with pytest.raises(UserError, match="at least 2"):
        hutchinson(lambda v: v, 3, 1)
