"""Quadrature rules of the spectrum against the dense Hessian, and questions that cost no product."""

import matplotlib
import numpy as np
import pytest
import torch
from torch import nn

from sharpness import Objective, UserError, load_result, spectral_density
from sharpness.curvature.operator import random_signs
from sharpness.engine.operator import CurvatureOperator

RUNS = 6


def build(case, **options):
    return Objective(case.model, (case.x, case.y), case.loss, num_classes=3, **options)


def test_moments_are_those_of_the_signs_with_the_dense_hessian(case):
    """A rule of m nodes is exact for z' H^p z up to p = 2 m - 1."""
    objective = build(case)
    k = objective.num_parameters
    result = spectral_density(objective, per_class=True, draws=RUNS, steps=4, seed=2)
    generator = torch.Generator().manual_seed(2)
    z = torch.stack([random_signs(k, generator, torch.float64, "cpu") for _ in range(RUNS)])
    for c in range(3):
        hessian, image = case.dense(rows=case.y == c)[2], z
        for p in range(6):
            exact = (image * z).sum(dim=1).numpy() / k
            value, error = result.quadrature(c).moment(p)
            scale = np.abs(exact).mean() + np.linalg.norm(hessian, 2) ** p
            assert value == pytest.approx(exact.mean(), abs=1e-8 * scale)
            assert error == pytest.approx(exact.std(ddof=1) / RUNS**0.5, abs=1e-8 * scale)
            image = image @ hessian


def test_moments_agree_with_the_dense_spectrum_within_their_errors(case):
    rule = spectral_density(build(case), draws=10, steps=6).quadrature()
    values = np.linalg.eigvalsh(case.dense()[2].numpy())
    for p in range(5):
        value, error = rule.moment(p)
        assert abs(value - (values**p).mean()) <= 4 * error + 1e-9


def test_nodes_lie_inside_the_spectrum_and_weights_sum_to_one(case):
    result = spectral_density(build(case), per_class=True, draws=3, steps=8)
    np.testing.assert_allclose(result.weights.sum(axis=2), 1, rtol=1e-12)
    for c in range(3):
        values = np.linalg.eigvalsh(case.dense(rows=case.y == c)[2].numpy())
        slack = 1e-9 * np.abs(values).max()
        assert np.nanmin(result.nodes[c]) >= values[0] - slack and np.nanmax(result.nodes[c]) <= values[-1] + slack
        assert result.quadrature(c).mass(-np.inf, np.inf) == (1, 0)


def test_masses_are_shares_of_well_separated_eigenvalues(quadratic, symmetric):
    spectrum = [-3.0] * 5 + [0.0] * 40 + [10.0] * 5
    rule = spectral_density(quadratic(symmetric(spectrum)), draws=30, steps=5).quadrature()
    for low, high, share in ((-4, -1, 0.1), (-1, 1, 0.8), (5, 20, 0.1)):
        value, error = rule.mass(low, high)
        assert abs(value - share) <= 4 * error
        assert 0 < error < 0.03


def test_the_density_integrates_to_one_at_any_width(case):
    result = spectral_density(build(case), draws=3, steps=8)
    for width in (None, 0.05, 3.0):
        curve = result.density(width=width)
        assert np.trapezoid(curve.density, curve.grid) == pytest.approx(1, abs=1e-6)


def test_groups_matched_samples_and_the_gauss_newton_part():
    torch.manual_seed(0)
    y = torch.tensor([0] * 5 + [1] * 3 + [2] * 2)
    data = torch.randn(10, 4, dtype=torch.float64), y
    objective = Objective(nn.Linear(4, 3).double(), data, groups={"many": (0,), "few": (1, 2)})
    groups = spectral_density(objective, draws=2, steps=3, per_group=True)
    assert groups.class_names == ("many", "few") and groups.class_samples.tolist() == [5, 5]
    few = spectral_density(objective.restrict(np.flatnonzero(y > 0)), draws=2, steps=3)
    np.testing.assert_allclose(groups.nodes[1], few.nodes, rtol=1e-8)
    matched = spectral_density(objective, draws=2, steps=3, per_class=True, match_samples=2)
    assert matched.class_samples.tolist() == [2, 2, 2]
    assert matched.sample_products == 2 * matched.products.sum()
    one, other = (spectral_density(objective, draws=2, steps=3, kind=kind) for kind in ("hessian", "ggn"))
    np.testing.assert_allclose(one.nodes, other.nodes, rtol=1e-7)


def test_products_are_counted_in_samples(case, monkeypatch):
    made = []
    original = CurvatureOperator.__call__

    def counted(self, v):
        made.append(self.samples)
        return original(self, v)

    monkeypatch.setattr(CurvatureOperator, "__call__", counted)
    result = spectral_density(build(case), per_class=True, draws=2, steps=4)
    assert result.products.sum() == len(made)
    assert result.sample_products == sum(made)


def test_questions_and_pictures_of_a_result_cost_no_product(case, monkeypatch, tmp_path):
    result = spectral_density(build(case), per_class=True, draws=2, steps=4)
    path = result.save(tmp_path / "density.nc")

    def refuse(self, v):
        raise AssertionError("a product was made")

    monkeypatch.setattr(CurvatureOperator, "__call__", refuse)
    again = load_result(path)
    for width in (None, 0.1, 1.0):
        one, other = result.density(1, width=width), again.density(1, width=width)
        np.testing.assert_array_equal(one.density, other.density)
        ax = result.plot(matplotlib.figure.Figure().subplots(), of=1, smoothing=width)
        drawn = ax.lines[0].get_ydata()
        shown = one.density >= ax.get_ylim()[0]
        np.testing.assert_array_equal(drawn[shown], one.density[shown])
    assert again.to_frame().equals(result.to_frame())


def test_the_frame_holds_ends_trace_and_shares_with_errors(case):
    frame = spectral_density(build(case), per_class=True, draws=4, steps=10).to_frame()
    assert frame["class"].tolist() == ["0", "1", "2"] and frame.samples.tolist() == [9, 4, 2]
    for c in range(3):
        hessian = case.dense(rows=case.y == c)[2].numpy()
        row = frame.iloc[c]
        assert abs(row.trace - np.trace(hessian)) <= 5 * row.trace_se + 1e-9
        assert row.highest <= np.linalg.eigvalsh(hessian)[-1] * (1 + 1e-9) + 1e-12
    assert (frame["share_below_-1%"] + frame["share_above_1%"] <= 1 + 1e-12).all()


def test_a_class_without_samples_has_no_spectrum_and_says_so():
    objective = Objective(nn.Linear(3, 3), (torch.randn(4, 3), torch.tensor([0, 2, 0, 2])))
    result = spectral_density(objective, per_class=True, draws=2, steps=3)
    assert np.isnan(result.nodes[1]).all() and not result.products[1]
    assert np.isnan(result.to_frame().trace[1]) and np.isfinite(result.to_frame().trace[[0, 2]]).all()
    with pytest.raises(UserError, match="class 1 has no samples here"):
        result.density(1)
    with pytest.raises(UserError, match="unknown class or group 'cow'"):
        result.density("cow")
    with pytest.raises(UserError, match="ask for per_class=True"):
        spectral_density(objective, draws=2, steps=3).density(0)


def test_one_run_and_an_unknown_kind_are_refused(case):
    with pytest.raises(UserError, match="at least 2 draws"):
        spectral_density(build(case), draws=1)
    with pytest.raises(UserError, match="kind of curvature"):
        spectral_density(build(case), kind="fisher")


def test_several_models_are_compared_on_the_same_vectors(case):
    found = spectral_density({"a": build(case), "b": build(case)}, per_class=True, draws=2, steps=3)
    assert [r.label for r in found.values()] == ["a", "b"]
    np.testing.assert_array_equal(found["a"].nodes, found["b"].nodes)
    assert len(found.to_frame()) == 6
