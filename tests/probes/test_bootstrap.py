"""Intervals over samples: how often they cover what other samples would give."""

import numpy as np
import pytest
import torch
from torch import nn

from sharpness import Objective, UserError, eigenvalues, trace
from sharpness.probes.bootstrap import mean_interval

RESAMPLES = 200
REPETITIONS = 200


def covers(bounds, truth):
    return bounds[0] <= truth <= bounds[1]


@pytest.mark.parametrize("weighted", [False, True])
def test_intervals_of_a_mean_cover_it_in_95_percent_of_samples(weighted):
    """Of exponential values; with weights, of the ratio of expectations."""
    random = np.random.default_rng(0)
    covered = 0
    truth = 1.75 / 1.25 if weighted else 1.0  # E a^2 / E a of a uniform on [0.5, 2]
    for seed in range(REPETITIONS):
        a = random.uniform(0.5, 2, 80) if weighted else np.ones(80)
        q = random.exponential(a)
        covered += covers(mean_interval(q, a, RESAMPLES, seed), truth)
    assert 0.90 <= covered / REPETITIONS <= 0.99


def test_intervals_are_deterministic_and_scale_with_their_values():
    q, a = np.random.default_rng(1).exponential(size=30), np.ones(30)
    one = mean_interval(q, a, RESAMPLES, 5)
    assert one == mean_interval(q, a, RESAMPLES, 5) != mean_interval(q, a, RESAMPLES, 6)
    np.testing.assert_allclose(mean_interval(-2 * q, a, RESAMPLES, 5), -2 * np.array(one[::-1]), rtol=1e-12)
    narrow = mean_interval(q, a, RESAMPLES, 5, confidence=0.5)
    assert one[0] < narrow[0] < narrow[1] < one[1]


def test_a_sample_of_weight_near_zero_does_not_count():
    q, a = np.array([1.0, 2.0, 3.0, 1e6]), np.array([1.0, 1.0, 1.0, 1e-300])
    assert mean_interval(q[:3], a[:3], 999, 0)[1] == 3
    assert mean_interval(q, a, 999, 0)[0] == 1


def regression(width, n, random):
    """Squared loss on inputs of mean square 1, whose Hessian is 2 I in the population."""
    x = torch.from_numpy(random.uniform(-(3**0.5), 3**0.5, (n, width)))
    y = torch.zeros(n, dtype=torch.int64)
    model = nn.Linear(width, 1, bias=False).double()
    return Objective(model, (x, y), loss=lambda u, t: u[:, 0].square(), batch_size=n)


def test_intervals_of_an_eigenvalue_cover_that_of_the_population():
    random = np.random.default_rng(2)
    covered = 0
    for _ in range(REPETITIONS):
        result = eigenvalues(regression(1, 60, random), bootstrap=RESAMPLES, keep_vectors=False)
        covered += covers((result.lower[0], result.upper[0]), 2.0)
    assert 0.90 <= covered / REPETITIONS <= 0.99


def test_intervals_of_a_trace_cover_that_of_the_population():
    """z' (2 I) z is the trace for all signs z, so that samples are the only source of error."""
    random = np.random.default_rng(3)
    covered = 0
    for _ in range(REPETITIONS):
        result = trace(regression(3, 200, random), probes=2, bootstrap=RESAMPLES)
        covered += covers((result.overall_lower[0], result.overall_upper[0]), 6.0)
    assert 0.90 <= covered / REPETITIONS <= 0.99


def build(case, **options):
    return Objective(case.model, (case.x, case.y), case.loss, num_classes=3, **options)


def test_intervals_contain_the_value_that_they_belong_to(case):
    objective = build(case)
    for per_class in (False, True):
        result = eigenvalues(objective, 1, "both", per_class, bootstrap=RESAMPLES)
        assert result.lower.shape == result.upper.shape == result.values.shape
        assert (result.lower <= result.values + 1e-9).all() and (result.values <= result.upper + 1e-9).all()
    result = trace(objective, per_class=True, probes=4, bootstrap=RESAMPLES)
    for low, value, high in (
        (result.lower, result.values, result.upper),
        (result.overall_lower, result.overall, result.overall_upper),
    ):
        assert (low <= value + 1e-9).all() and (value <= high + 1e-9).all()


def test_intervals_of_all_samples_do_not_depend_on_the_rows(case):
    """The samples of a case are sorted by class, so that resamples are the same ones."""
    objective = build(case)
    rows, whole = (trace(objective, c, probes=4, bootstrap=RESAMPLES) for c in (True, False))
    np.testing.assert_allclose(rows.overall_lower, whole.overall_lower, rtol=1e-8)
    np.testing.assert_allclose(rows.overall_upper, whole.overall_upper, rtol=1e-8)


def test_intervals_are_those_of_dense_rayleigh_quotients(case):
    """Of every sample: v' H_i v, with v of the whole class."""
    result = eigenvalues(build(case), per_class=True, bootstrap=RESAMPLES, tol=1e-9, seed=4)
    for c in range(3):
        v = torch.from_numpy(result.vectors[c, 0])
        members = (case.y == c).nonzero().squeeze(1)
        forms = []
        for i in members:
            one = torch.zeros(len(case.y), dtype=torch.bool)
            one[i] = True
            forms.append(float(v @ case.dense(rows=one)[2] @ v))
        assert np.mean(forms) == pytest.approx(result.values[c, 0], rel=1e-6, abs=1e-9)
        bounds = mean_interval(np.array(forms), np.ones(len(forms)), RESAMPLES, 4)
        np.testing.assert_allclose([result.lower[c, 0], result.upper[c, 0]], bounds, rtol=1e-6, atol=1e-9)


def test_one_sample_has_no_interval():
    assert np.isnan(mean_interval(np.array([1.0]), np.ones(1), RESAMPLES, 0)).all()
    objective = Objective(nn.Linear(3, 3).double(), (torch.randn(5, 3), torch.tensor([0, 0, 2, 0, 0])))
    for result in (
        eigenvalues(objective, per_class=True, bootstrap=RESAMPLES),
        trace(objective, per_class=True, probes=2, bootstrap=RESAMPLES),
    ):
        values, low, high = (a.reshape(-1) for a in (result.values, result.lower, result.upper))
        assert np.isfinite([values[2], low[0], high[0]]).all()
        assert np.isnan([*low[1:], *high[1:]]).all()


@pytest.mark.parametrize("probe", [eigenvalues, trace])
@pytest.mark.parametrize("resamples", [99, 1, -1])
def test_too_few_resamples_are_refused_before_anything_is_computed(probe, resamples):
    objective = Objective(nn.Linear(3, 3), (torch.randn(4, 3), torch.tensor([0, 1, 2, 0])), loss=_counted)
    _counted.calls = 0
    with pytest.raises(UserError, match=f"bootstrap={resamples}"):
        probe(objective, bootstrap=resamples)
    assert not _counted.calls


def _counted(outputs, targets):
    _counted.calls = getattr(_counted, "calls", 0) + 1
    return nn.functional.cross_entropy(outputs, targets, reduction="none")
