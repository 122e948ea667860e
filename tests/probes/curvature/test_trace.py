"""Traces against dense Hessians, and whether their errors are what they say."""

import numpy as np
import pytest
import torch
from scipy.stats import t as student
from torch import nn

from sharpness import Objective, UserError, trace
from sharpness.curvature.operator import random_signs
from sharpness.curvature.trace import hutchpp

ESTIMATORS = pytest.mark.parametrize("estimator", ["hutchinson", "hutch++"])
SOFTMAX = pytest.mark.parametrize("case", ["softmax regression"], indirect=True)


def build(case, **options):
    return Objective(case.model, (case.x, case.y), case.loss, num_classes=3, **options)


def exact(case, rows=None, weights=None):
    return float(case.dense(rows=rows, weights=weights)[2].trace())


@ESTIMATORS
def test_traces_agree_with_the_dense_diagonal_within_their_error(case, estimator):
    result = trace(build(case), per_class=True, draws=30, estimator=estimator)
    found = [*result.values[0], *result.overall]
    errors = [*result.standard_errors[0], *result.overall_standard_errors]
    for c, value, error in zip([0, 1, 2, None], found, errors, strict=True):
        assert abs(value - exact(case, None if c is None else case.y == c)) <= 4 * error + 1e-9
    alone = trace(build(case), draws=30, estimator=estimator)
    assert abs(alone.overall[0] - exact(case)) <= 4 * alone.overall_standard_errors[0] + 1e-9
    assert np.isnan(alone.values).all()


@ESTIMATORS
def test_group_traces_are_those_of_all_samples_of_the_group(case, estimator):
    objective = build(case, groups={"many": (0,), "few": (1, 2)})
    result = trace(objective, per_group=True, draws=20, estimator=estimator)
    for row, members in ((0, case.y == 0), (1, case.y > 0)):
        assert abs(result.values[0, row] - exact(case, members)) <= 4 * result.standard_errors[0, row] + 1e-9
    assert result.class_names == ("many", "few")
    assert result.class_samples.tolist() == [9, 6]


def test_the_gauss_newton_trace_of_a_linear_model_is_the_hessians():
    objective = Objective(nn.Linear(3, 3).double(), (torch.randn(9, 3), torch.arange(9) % 3))
    hessian, ggn = (trace(objective, per_class=True, draws=5, kind=kind) for kind in ("hessian", "ggn"))
    np.testing.assert_allclose(hessian.values, ggn.values, rtol=1e-9)


def test_the_estimate_is_the_mean_over_signs_of_the_dense_quadratic_form(case):
    result = trace(build(case), per_class=True, draws=6, seed=3, estimator="hutchinson")
    generator = torch.Generator().manual_seed(3)
    k = sum(p.numel() for p in case.model.parameters())
    z = torch.stack([random_signs(k, generator, torch.float64, "cpu") for _ in range(6)])
    for c in range(3):
        forms = ((z @ case.dense(rows=case.y == c)[2]) * z).sum(dim=1).numpy()
        assert result.values[0, c] == pytest.approx(forms.mean(), rel=1e-8, abs=1e-10)
        assert result.standard_errors[0, c] == pytest.approx(forms.std(ddof=1) / 6**0.5, rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_overall_trace_is_the_weighted_sum_of_the_classes(case, weighted):
    a = torch.linspace(0.5, 3, len(case.y), dtype=torch.float64) if weighted else torch.ones(15, dtype=torch.float64)
    objective = build(case, weights=a)
    result = trace(objective, per_class=True, draws=5, estimator="hutchinson")
    shares = [float(a[case.y == c].sum() / a.sum()) for c in range(3)]
    assert result.overall[0] == pytest.approx(result.values[0] @ shares, rel=1e-12)
    alone = trace(objective, draws=5, estimator="hutchinson")
    assert result.overall[0] == pytest.approx(alone.overall[0], rel=1e-8, abs=1e-10)
    assert result.overall_standard_errors[0] == pytest.approx(alone.overall_standard_errors[0], rel=1e-8, abs=1e-10)


def test_by_sample_and_by_product_the_estimate_is_the_same(case):
    a = torch.linspace(0.5, 3, len(case.y), dtype=torch.float64)
    for options in ({"per_class": True}, {}):
        products, samples = (
            trace(build(case, weights=a), draws=4, bootstrap=b, estimator="hutchinson", **options) for b in (0, 200)
        )
        for name in ("values", "standard_errors", "overall", "overall_standard_errors"):
            a_b = getattr(products, name), getattr(samples, name)
            np.testing.assert_allclose(*a_b, rtol=1e-8, atol=1e-10)
    assert products.over == ("4 random vectors",) and samples.over == ("images (200 resamples)",)


@SOFTMAX
@ESTIMATORS
def test_intervals_from_the_standard_error_cover_the_trace_in_95_percent_of_seeds(case, estimator):
    objective, truth, probes = build(case), exact(case), 12
    half = student.ppf(0.975, (probes if estimator == "hutchinson" else probes // 3) - 1)
    covered = 0
    for seed in range(200):
        found = trace(objective, draws=probes, seed=seed, estimator=estimator)
        covered += abs(found.overall[0] - truth) <= half * found.overall_standard_errors[0]
    assert 0.90 <= covered / 200 <= 0.99


@SOFTMAX
def test_the_mean_over_seeds_is_the_trace_and_their_spread_the_error(case):
    objective = build(case)
    found = [trace(objective, per_class=True, draws=4, seed=seed, estimator="hutchinson") for seed in range(64)]
    values = np.array([[*r.values[0], r.overall[0]] for r in found])
    errors = np.array([[*r.standard_errors[0], r.overall_standard_errors[0]] for r in found])
    truth = np.array([*(exact(case, case.y == c) for c in range(3)), exact(case)])
    spread = values.std(axis=0, ddof=1)
    assert (np.abs(values.mean(axis=0) - truth) <= 4 * spread / 8).all()
    np.testing.assert_allclose(np.sqrt((errors**2).mean(axis=0)), spread, rtol=0.25)


def test_matched_samples_are_those_of_every_row(case):
    result = trace(build(case), per_class=True, draws=3, match_samples=2)
    assert result.class_samples.tolist() == [2, 2, 2]
    assert result.overall[0] == pytest.approx(result.values[0].mean(), rel=1e-10)
    with pytest.raises(UserError, match="give 1 to 2"):
        trace(build(case), match_samples=3)


def test_products_are_counted(case):
    found = trace(build(case), per_class=True, draws=4, estimator="hutchinson")
    assert found.provenance["products"] == 12
    assert trace(build(case), draws=9, estimator="hutch++").provenance["products"] == 9
    assert trace(build(case), draws=3).provenance["samples"] == 15


def test_a_class_without_samples_is_nan_and_leaves_the_rest_alone():
    objective = Objective(nn.Linear(3, 3).double(), (torch.randn(4, 3), torch.tensor([0, 2, 0, 2])))
    for bootstrap in (0, 200):
        result = trace(objective, per_class=True, draws=3, bootstrap=bootstrap)
        assert np.isnan(result.values[0, 1]) and np.isnan(result.standard_errors[0, 1])
        assert result.overall[0] == pytest.approx(result.values[0, [0, 2]].mean(), rel=1e-12)


def test_what_has_no_meaning_is_refused(case):
    for wrong, message in (
        ({"estimator": "exactly"}, "trace estimator"),
        ({"kind": "fisher"}, "kind of curvature"),
        ({"draws": 1, "estimator": "hutchinson"}, "at least 2"),
        ({"draws": 1, "bootstrap": 200}, "at least 2"),
        ({"draws": 5, "estimator": "hutch++"}, "at least 6"),
        ({"bootstrap": 200, "estimator": "hutch++"}, "no parts by sample"),
        ({"bootstrap": 200, "kind": "ggn"}, "take kind='hessian'"),
        ({"verify": True, "kind": "ggn"}, "take kind='hessian'"),
    ):
        with pytest.raises(UserError, match=message):
            trace(build(case), **wrong)


def test_several_models_are_compared_on_the_same_signs(case):
    found = trace({"a": build(case), "b": build(case)}, per_class=True, draws=3)
    assert [r.label for r in found.values()] == ["a", "b"]
    np.testing.assert_array_equal(found["a"].values, found["b"].values)
    assert len(found.to_frame()) == 2 * 4


def test_intervals_of_hutchpp_have_the_freedom_of_their_own_draws():
    """The Hessian of a class of one image has rank two, so that its sketch leaves more products to draws."""
    torch.manual_seed(0)
    data = torch.randn(9, 12, dtype=torch.float64), torch.tensor([0] + [1] * 4 + [2] * 4)
    objective, sizes = Objective(nn.Linear(12, 3).double(), data), []
    result = trace(objective, per_class=True, draws=18, estimator="hutch++")
    for c in range(3):
        with objective.restrict(c).operator() as operator:
            generator = torch.Generator().manual_seed(0)
            found = hutchpp(operator, operator.size, 18, generator=generator, dtype=torch.float64)
        sizes.append(len(found.samples))
        half = student.ppf(0.975, sizes[-1] - 1) * found.standard_error
        expected = found.value - half, found.value + half
        np.testing.assert_allclose((result.lower[0, c], result.upper[0, c]), expected, rtol=1e-6)
    assert sizes[0] > sizes[1]
