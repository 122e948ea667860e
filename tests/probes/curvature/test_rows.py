"""Rows of a probe: whole, classes and groups, and what their samples and shares are."""

import numpy as np
import pytest
import torch
from torch import nn

from sharpness import Objective, eigenvalues, trace
from sharpness.probes.curvature import row_eigenvalues
from sharpness.probes.curvature.rows import rows_of

LABELS = torch.tensor([0] * 6 + [1] * 4 + [3] * 2)


def build(groups=None, **options):
    torch.manual_seed(0)
    return Objective(nn.Linear(3, 4).double(), (torch.randn(12, 3), LABELS), groups=groups, **options)


def test_rows_hold_the_samples_that_they_are_named_after():
    rows = rows_of(build({"many": (0,), "tail": (1, 3), "none": (2,)}), False, options={"per_group": True})
    assert rows.names == ("many", "tail", "none")
    assert [None if p is None else p.y.tolist() for p in rows.parts] == [[0] * 6, [1] * 4 + [3] * 2, None]
    assert rows.samples.tolist() == [6, 6, 0]
    classes = rows_of(build(), True)
    assert classes.samples.tolist() == [6, 4, 0, 2]
    assert [i for i, _ in classes.present] == [0, 1, 3]
    assert rows_of(build(), False).samples.tolist() == [12]


def test_shares_are_of_the_total_weight():
    a = torch.linspace(1, 2, 12, dtype=torch.float64)
    shares = rows_of(build(weights=a), True).shares
    expected = [float(a[c == LABELS].sum() / a.sum()) for c in range(4)]
    np.testing.assert_allclose(shares, expected, rtol=1e-14)


@pytest.mark.parametrize(
    ("groups", "complete"),
    [
        ({"a": (0, 1), "b": (2, 3)}, True),
        ({"a": (0, 1), "b": (3,)}, True),
        ({"a": (0,), "b": (3,)}, False),
        ({"a": (0, 1), "b": (1, 3)}, False),
        ({"a": (0, 3), "b": (3,)}, False),
    ],
)
def test_groups_give_an_overall_trace_if_every_sample_is_in_exactly_one(groups, complete):
    objective = build(groups)
    assert rows_of(objective, False, options={"per_group": True}).complete is complete
    result = trace(objective, per_group=True, draws=4, bootstrap=200, verify=True)
    whole = trace(objective, draws=4, estimator="hutchinson")
    if complete:
        assert result.overall[0] == pytest.approx(whole.overall[0], rel=1e-10)
        assert result.overall_standard_errors[0] == pytest.approx(whole.overall_standard_errors[0], rel=1e-8)
        assert result.overall_lower[0] < result.overall[0] < result.overall_upper[0]
        assert list(result.checks.check[-1:]) == ["weighted sum of the rows"]
    else:
        assert np.isnan(
            [*result.overall, *result.overall_standard_errors, *result.overall_lower, *result.overall_upper]
        ).all()
        assert "weighted sum of the rows" not in set(result.checks.check)


def test_ends_without_a_basis_are_those_with_one(monkeypatch):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3)).double()
    objective = Objective(model, (torch.randn(12, 3, dtype=torch.float64), torch.arange(12) % 3))
    kept = eigenvalues(objective, which="both", per_class=True, keep_vectors=True, tol=1e-6)
    monkeypatch.setattr(row_eigenvalues, "BASIS", 0)
    found = eigenvalues(objective, which="both", per_class=True, keep_vectors=False, tol=1e-6)
    np.testing.assert_allclose(found.values, kept.values, rtol=1e-6)
    assert found.converged.all() and found.vectors is None
