"""Curvature against the rise of the loss: agreement where it is right, a discrepancy where it is wrong."""

import importlib

import numpy as np
import pytest
import torch

from sharpness import Objective, eigenvalues, load_result, trace
from sharpness.curvature.lanczos import lanczos
from sharpness.probes.curvature.verification import check_trace


def build(case, **options):
    return Objective(case.model, (case.x, case.y), case.loss, num_classes=3, **options)


def discrepancies(checks):
    """In reported errors."""
    rounding = 1e-6 * np.abs(checks.expected)
    return np.abs(checks.measured - checks.expected) / (checks.measured_se + rounding + 1e-9)


@pytest.mark.parametrize("at_minimum", [False, True])
@pytest.mark.parametrize("which", ["LA", "SA", "both"])
def test_on_a_quadratic_the_rise_is_the_eigenvalue(quadratic, symmetric, at_minimum, which):
    matrices = np.stack([symmetric([5.0, 2.0, 0.5, -3.0], seed) for seed in range(6)])
    objective = quadratic(matrices, [0, 0, 0, 1, 1, 2], at_minimum)
    for per_class in (False, True):
        result = eigenvalues(objective, 1, which, per_class, tol=1e-8, verify=True)
        np.testing.assert_allclose(result.checks.expected, np.atleast_2d(result.values)[:, 0], rtol=1e-12)
        np.testing.assert_allclose(result.checks.measured, result.checks.expected, rtol=1e-6)
        assert (result.checks.measured_se <= 1e-6 * result.checks.expected.abs()).all()


def test_on_a_quadratic_the_mean_rise_is_the_trace_within_its_error(quadratic, symmetric):
    objective = quadratic(symmetric([5.0, 2.0, 0.5, -3.0] * 5))
    checks = trace(objective, verify=True).checks
    assert (discrepancies(checks) < 4).all()
    exactly = trace(quadratic(np.eye(3)), draws=2, verify=True).checks
    assert exactly.expected[0] == pytest.approx(3, rel=1e-12)


def test_eigenvalues_of_every_case_agree_within_a_few_errors(case):
    for which in ("LA", "SA"):
        checks = eigenvalues(build(case), 1, which, per_class=True, tol=1e-8, verify=True).checks
        assert checks["class"].tolist() == ["0", "1", "2"]
        assert (discrepancies(checks) < 4).all()


def test_traces_of_every_case_agree_within_a_few_errors_and_rows_sum_to_the_whole(case):
    checks = trace(build(case), per_class=True, draws=30, verify=True).checks
    assert checks.check.tolist() == ["rise under Gaussian noise"] * 3 + ["weighted sum of the rows"]
    assert checks["class"].tolist() == ["0", "1", "2", "all"]
    assert (discrepancies(checks) < 4).all()
    assert checks.measured[3] == pytest.approx(checks.expected[3], rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("case", ["tanh network", "softmax regression"], indirect=True)
@pytest.mark.parametrize("wrong", ["value", "vector"])
def test_a_wrong_pair_shows_up_as_a_large_discrepancy(case, wrong, monkeypatch):
    def broken(product, size, *args, **options):
        pairs = lanczos(product, size, *args, **options)
        if wrong == "value":
            pairs.values[:] = 1.2 * pairs.values
        else:
            pairs.vectors.copy_(torch.eye(size, dtype=pairs.vectors.dtype)[: len(pairs.vectors)])
        return pairs

    monkeypatch.setattr(importlib.import_module("sharpness.probes.curvature.row_eigenvalues"), "lanczos", broken)
    checks = eigenvalues(build(case), per_class=True, verify=True).checks
    assert (discrepancies(checks) > 10).all()
    assert (np.abs(checks.measured / checks.expected - 1) > 0.1).all()


def test_a_wrong_trace_shows_up_as_a_large_discrepancy(case):
    exact = float(case.dense()[2].trace())
    wrong = check_trace(build(case), "all", exact + 20 * abs(exact), 0.0)
    assert abs(wrong["measured"] - wrong["expected"]) > 10 * wrong["error"]


@pytest.mark.parametrize("batchnorm", ["eval", "recalibrate"])
def test_the_model_is_left_as_it_was_found(case, batchnorm):
    objective = build(case, batchnorm=batchnorm)
    before = {name: t.clone() for name, t in case.model.state_dict().items()}
    modes = [m.training for m in case.model.modules()]
    eigenvalues(objective, per_class=True, verify=True)
    trace(objective, draws=2, verify=True)
    assert all(torch.equal(t, before[name]) for name, t in case.model.state_dict().items())
    assert modes == [m.training for m in case.model.modules()]
    assert all(p.grad is None for p in case.model.parameters())


def test_checks_are_a_table_that_survives_a_file(case, tmp_path):
    columns = ["class", "group", "samples", "check", "measured", "measured_se", "expected"]
    for result in (
        eigenvalues(build(case), per_class=True, verify=True, keep_vectors=False),
        trace(build(case), per_class=True, draws=3, verify=True),
    ):
        assert list(result.checks.columns) == columns
        again = load_result(result.save(tmp_path / "r.nc"))
        assert again.checks.equals(result.checks)
        for old, new in (("row", "class"), ("error", "measured_se")):
            with pytest.warns(FutureWarning, match=f'checks."{old}". is now checks."{new}"'):
                assert result.checks[old].equals(result.checks[new])
    assert eigenvalues(build(case), verify=True, keep_vectors=False).vectors is None


def test_without_verification_there_are_no_checks(case):
    assert eigenvalues(build(case)).checks.empty


def test_classes_without_samples_have_no_checks():
    objective = Objective(
        torch.nn.Linear(3, 3).double(), (torch.randn(4, 3, dtype=torch.float64), torch.tensor([0, 2, 0, 2]))
    )
    assert eigenvalues(objective, per_class=True, verify=True).checks["class"].tolist() == ["0", "2"]
    assert trace(objective, per_class=True, draws=3, verify=True).checks["class"].tolist() == ["0", "2", "all"]


def test_statistics_that_the_hessian_holds_fixed_are_fixed_in_the_loss_too():
    torch.manual_seed(0)
    layers = torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 3)
    model = torch.nn.Sequential(*layers).double().eval()
    data = torch.randn(12, 4, dtype=torch.float64), torch.arange(12) % 3
    fixed, moving = (Objective(model, data, batchnorm=policy) for policy in ("eval", "recalibrate"))
    for probe, options in ((eigenvalues, {}), (trace, {"draws": 3})):
        expected, found = (probe(o, per_class=True, verify=True, **options).checks for o in (fixed, moving))
        np.testing.assert_allclose(found.measured, expected.measured, rtol=1e-9)
        np.testing.assert_allclose(found.expected, expected.expected, rtol=1e-9)
