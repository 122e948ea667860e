"""Eigenvalues against dense Hessians: overall, per class, per group, weighted, and of some parameters."""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import nn

from sharpness import Objective, UserError, eigenvalues


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


def test_more_eigenvalues_than_parameters_are_refused(quadratic, symmetric):
    with pytest.raises(UserError, match="k=3"):
        eigenvalues(quadratic(symmetric([1.0, 2.0])), k=3)


def test_the_frame_has_a_row_for_every_value(case):
    frame = eigenvalues(build(case), k=2, which="both", per_class=True).to_frame()
    assert len(frame) == 3 * 4
    assert list(frame.end[:4]) == ["largest", "largest", "smallest", "smallest"]
    assert list(frame["rank"][:4]) == [1, 2, 2, 1]


GROUPS = {"many": (0,), "few": (1, 2), "none": ()}


def test_group_eigenvalues_are_those_of_all_samples_of_the_group(case):
    result = eigenvalues(build(case, groups=GROUPS), which="both", per_group=True, tol=1e-8)
    for row, members in ((0, case.y == 0), (1, case.y > 0)):
        values = np.linalg.eigvalsh(case.dense(rows=members)[2].numpy())
        np.testing.assert_allclose(result.values[row], values[[-1, 0]], rtol=1e-6, atol=1e-9)
    assert np.isnan(result.values[2]).all() and not result.products[2]
    assert result.class_names == ("many", "few", "none")
    assert result.class_samples.tolist() == [9, 6, 0]
    assert result.groups == {}
    assert result.provenance["rows"] == "groups"


def test_groups_need_an_objective_with_groups_and_exclude_classes(case):
    with pytest.raises(UserError, match="has no groups"):
        eigenvalues(build(case), per_group=True)
    with pytest.raises(UserError, match="one of them at a time"):
        eigenvalues(build(case, groups=GROUPS), per_group=True, per_class=True)


def test_weighted_eigenvalues_are_those_of_the_weighted_dense_hessian(case):
    a = torch.rand(len(case.y), dtype=torch.float64, generator=torch.Generator().manual_seed(2)) + 0.1
    objective = build(case, weights=a)
    assert_ends(eigenvalues(objective, which="both", tol=1e-8).values, case.dense(weights=a)[2])
    per_class = eigenvalues(objective, which="both", per_class=True, tol=1e-8).values
    for c in range(3):
        assert_ends(per_class[c], case.dense(weights=a, rows=case.y == c)[2])


def assert_ends(found, hessian):
    np.testing.assert_allclose(found, np.linalg.eigvalsh(hessian.numpy())[[-1, 0]], rtol=1e-6, atol=1e-9)


def test_eigenvalues_are_those_that_arpack_finds_with_the_same_products(case):
    objective = build(case)
    k = objective.num_parameters
    dense = case.dense()[2].numpy()
    operator = LinearOperator((k, k), matvec=lambda v: dense @ v, dtype=np.float64)
    for which in ("LA", "SA"):
        exact = np.sort(eigsh(operator, 2, which=which, tol=1e-10, return_eigenvectors=False, v0=np.ones(k)))[::-1]
        np.testing.assert_allclose(eigenvalues(objective, 2, which, tol=1e-8).values, exact, rtol=1e-6, atol=1e-8)


def test_vectors_that_are_not_kept_change_nothing_else(case):
    objective = build(case)
    kept, dropped = (eigenvalues(objective, 2, per_class=True, keep_vectors=keep) for keep in (True, False))
    assert dropped.vectors is None
    assert kept.vectors.shape == (3, 2, objective.num_parameters)
    np.testing.assert_array_equal(kept.values, dropped.values)


def test_matched_samples_are_equally_many_of_every_class_and_depend_on_the_seed_alone(case):
    objective = build(case)
    one, again, other = (
        eigenvalues(objective, per_class=True, match_samples=2, seed=seed, tol=1e-8) for seed in (0, 0, 1)
    )
    assert one.class_samples.tolist() == [2, 2, 2]
    assert one.provenance["samples"] == 6 and one.provenance["match_samples"] == 2
    np.testing.assert_array_equal(one.values, again.values)
    assert one.provenance["data_sha256"] == again.provenance["data_sha256"] != other.provenance["data_sha256"]
    # The class of two samples is the same whatever is drawn.
    whole = eigenvalues(objective, per_class=True, tol=1e-8)
    np.testing.assert_allclose(one.values[2], whole.values[2], rtol=1e-6, atol=1e-9)
    assert one.sample_products == 2 * one.hvp_count


@pytest.mark.parametrize("samples", [0, 3])
def test_matching_more_samples_than_the_smallest_class_has_is_refused(case, samples):
    with pytest.raises(UserError, match=f"match_samples={samples}: give 1 to 2"):
        eigenvalues(build(case), per_class=True, match_samples=samples)


def test_matching_passes_over_classes_without_samples():
    objective = Objective(nn.Linear(3, 3), (torch.randn(5, 3), torch.tensor([0, 2, 0, 2, 2])))
    result = eigenvalues(objective, per_class=True, match_samples=2)
    assert result.class_samples.tolist() == [2, 0, 2]
    assert np.isnan(result.values[1]).all()


def test_what_is_not_an_end_a_kind_or_a_hessian_is_refused(quadratic, symmetric):
    objective = quadratic(symmetric([1.0, 2.0]))
    for wrong, message in (
        ({"which": "LM"}, "end of the spectrum"),
        ({"kind": "fisher"}, "kind of curvature"),
        ({"kind": "ggn", "verify": True}, "kind='hessian'"),
        ({"bootstrap": 50}, "at least 100 resamples"),
        ({"k": 0}, "k=0"),
        ({"tol": 0}, "tol=0"),
    ):
        with pytest.raises(UserError, match=message):
            eigenvalues(objective, **wrong)


def test_a_run_that_is_cut_short_says_that_it_has_not_converged(case):
    result = eigenvalues(build(case), per_class=True, tol=1e-10, max_iterations=2)
    large = result.residuals[:, 0] > 1e-9 * np.abs(result.values[:, 0])
    np.testing.assert_array_equal(result.converged[:, 0], ~large)
    assert (result.products <= 2).all()


def test_several_models_are_compared_on_the_same_settings(case):
    found = eigenvalues({"a": build(case), "b": build(case)}, which="both", per_class=True)
    assert list(found) == ["a", "b"]
    assert [r.label for r in found.values()] == ["a", "b"]
    np.testing.assert_array_equal(found["a"].values, found["b"].values)
    assert list(found.to_frame().columns[:2]) == ["model", "class"]
    assert len(found.to_frame()) == 12
