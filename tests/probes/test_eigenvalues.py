"""Eigenvalues and traces against dense Hessians, overall and per class."""

import numpy as np
import pytest
import torch
from torch import nn

from sharpness import Objective, UserError, eigenvalues, trace


def build(case, **options):
    return Objective(case.model, (case.x, case.y), case.loss, num_classes=3, **options)


def dense_values(case, c=None):
    return np.linalg.eigvalsh(case.dense(rows=None if c is None else case.y == c)[2].numpy())[::-1]


def test_eigenvalues_are_the_dense_ones(case):
    result = eigenvalues(build(case), k=2, which="both", tol=1e-8)
    values = dense_values(case)
    np.testing.assert_allclose(result.values, np.r_[values[:2], values[-2:]], rtol=1e-6, atol=1e-9)
    assert result.converged.all()


def test_class_eigenvalues_are_the_dense_ones_of_every_class(case):
    result = eigenvalues(build(case), k=1, which="both", per_class=True, tol=1e-8)
    for c in range(3):
        values = dense_values(case, c)
        np.testing.assert_allclose(result.values[c], [values[0], values[-1]], rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(result.largest, result.values[:, 0])
    np.testing.assert_array_equal(result.smallest, result.values[:, -1])


def test_vectors_satisfy_the_eigenvalue_equation(case):
    objective = build(case)
    result = eigenvalues(objective, per_class=True, tol=1e-6)
    for c in range(3):
        v = torch.as_tensor(result.vectors[c, 0])
        residual = float((objective.hvp(v, c) - result.values[c, 0] * v).norm())
        assert residual == pytest.approx(result.residuals[c, 0], rel=1e-3, abs=1e-12)


def test_products_are_counted_in_samples():
    calls = []
    x, y = torch.randn(9, 3, dtype=torch.float64), torch.tensor([0] * 6 + [1] * 3)
    objective = Objective(nn.Linear(3, 2).double(), (x, y), loss=lambda u, t: _counted(u, t, calls), memory=0)
    objective.hvp(torch.ones(8, dtype=torch.float64))
    calls.clear()
    result = eigenvalues(objective, per_class=True)
    seen = sum(calls) - 2 * 9
    assert result.sample_products == seen
    assert result.hvp_count < seen


def _counted(outputs, targets, calls):
    calls.append(len(targets))
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def test_a_class_without_samples_is_nan():
    objective = Objective(nn.Linear(3, 3), (torch.randn(4, 3), torch.tensor([0, 2, 0, 2])))
    result = eigenvalues(objective, per_class=True)
    assert np.isnan(result.values[1]).all()
    assert not result.converged[1].any()
    assert np.isfinite(result.values[[0, 2]]).all()


def test_traces_agree_with_the_dense_diagonal_within_their_error(case):
    estimate = trace(build(case), per_class=True, probes=400)
    for c in range(3):
        exact = float(case.dense(rows=case.y == c)[2].trace())
        assert abs(estimate.values[0, c] - exact) <= 4 * estimate.errors[0, c] + 1e-9
    assert abs(trace(build(case), probes=400).overall[0] - float(case.dense()[2].trace())) <= (
        4 * trace(build(case), probes=400).overall_errors[0] + 1e-9
    )


def test_more_eigenvalues_than_parameters_are_refused(quadratic, symmetric):
    with pytest.raises(UserError, match="k=3"):
        eigenvalues(quadratic(symmetric([1.0, 2.0])), k=3)


def test_the_frame_has_a_row_for_every_value(case):
    frame = eigenvalues(build(case), k=2, which="both", per_class=True).to_frame()
    assert len(frame) == 3 * 4
    assert list(frame.end[:4]) == ["largest", "largest", "smallest", "smallest"]
    assert list(frame["rank"][:4]) == [1, 2, 2, 1]
