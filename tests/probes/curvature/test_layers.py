"""Eigenvalues and traces of the Hessian's diagonal blocks, against the blocks of the dense Hessian."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from sharpness import Objective, UserError, eigenvalues, trace
from sharpness.curvature.operator import random_signs

#: Layers of the cases, in order, with their places in a flat vector.
LAYERS = {
    "softmax regression": {"model": (0, 15)},
    "tanh network": {"0": (0, 25), "2": (25, 43)},
    "convolution, BatchNorm, ReLU": {"0": (0, 27), "5": (33, 45)},
    "cosine head": {"model": (0, 12)},
    "attention": {"qkv": (0, 60), "out": (60, 75)},
}

every_layered_case = pytest.mark.parametrize("case", LAYERS, indirect=True)


def one_case(name):
    return pytest.mark.parametrize("case", [name], indirect=True)


def build(case, **options):
    return Objective(case.model, (case.x, case.y), case.loss, num_classes=3, **options)


@pytest.mark.parametrize(("which", "position"), [("LA", -1), ("SA", 0)])
@every_layered_case
def test_values_are_extreme_eigenvalues_of_the_dense_blocks(case, which, position):
    spans = LAYERS[case.name]
    overall = eigenvalues(build(case), which=which, per_layer=True, tol=1e-8)
    result = eigenvalues(build(case), which=which, per_layer=True, per_class=True, tol=1e-8)
    assert result.layers == overall.layers == tuple(spans)
    assert result.layer_parameters.tolist() == [end - start for start, end in spans.values()]
    assert result.values.shape == (len(spans), 3) and overall.values.shape == (len(spans), 1)
    for found, c in [(overall.values[:, 0], None), *((result.values[:, c], c) for c in range(3))]:
        hessian = case.dense(rows=None if c is None else case.y == c)[2].numpy()
        blocks = [np.linalg.eigvalsh(hessian[i:j, i:j])[position] for i, j in spans.values()]
        np.testing.assert_allclose(found, blocks, rtol=1e-6, atol=1e-9)
    assert result.converged.all()
    assert result.measure == {"LA": "lambda_max", "SA": "lambda_min"}[which]


@one_case("softmax regression")
def test_gauss_newton_blocks_of_a_linear_model_are_the_hessians(case):
    objective = build(case)
    one, other = (eigenvalues(objective, per_layer=True, kind=kind, tol=1e-9).values for kind in ("hessian", "ggn"))
    np.testing.assert_allclose(one, other, rtol=1e-7)


@one_case("convolution, BatchNorm, ReLU")
def test_layers_are_those_of_the_scope(case):
    dense = case.dense()[2].numpy()
    head = eigenvalues(build(case, parameters="5.*"), per_layer=True, tol=1e-8)
    assert head.layers == ("5",)
    assert head.values[0, 0] == pytest.approx(np.linalg.eigvalsh(dense[33:, 33:])[-1], rel=1e-6)
    weights = eigenvalues(build(case, parameters="*weight"), per_layer=True, tol=1e-8)
    assert weights.layers == ("0", "5")
    assert weights.layer_parameters.tolist() == [27, 9]
    assert weights.values[1, 0] == pytest.approx(np.linalg.eigvalsh(dense[33:42, 33:42])[-1], rel=1e-6)
    with pytest.raises(UserError, match="weight of a layer"):
        eigenvalues(build(case, parameters="1.*"), per_layer=True)


@one_case("tanh network")
def test_rows_may_be_groups_or_matched_classes(case):
    objective = build(case, groups={"many": (0,), "few": (1, 2)})
    groups = eigenvalues(objective, per_layer=True, per_group=True, tol=1e-8)
    hessian = case.dense(rows=case.y > 0)[2].numpy()
    assert groups.values[1, 1] == pytest.approx(np.linalg.eigvalsh(hessian[25:, 25:])[-1], rel=1e-6)
    assert list(groups.to_frame()["class"][:2]) == ["many", "few"]
    assert groups.to_frame().samples[:2].tolist() == [9, 6]
    matched = eigenvalues(objective, per_layer=True, per_class=True, match_samples=2)
    assert matched.class_samples.tolist() == [2, 2, 2]


@one_case("tanh network")
def test_one_number_a_layer_is_all_there_is(case):
    objective = build(case)
    for probe, wrong in (
        (eigenvalues, {"k": 2}),
        (eigenvalues, {"bootstrap": 200}),
        (eigenvalues, {"verify": True}),
        (eigenvalues, {"standard_errors": True}),
        (trace, {"bootstrap": 200}),
        (trace, {"verify": True}),
    ):
        ((name, value),) = wrong.items()
        with pytest.raises(UserError, match=re.escape(f"(per_layer=True) does not take {name}={value!r}")):
            probe(objective, per_layer=True, **wrong)
    with pytest.raises(UserError, match="unknown end of every layer's spectrum 'both': choose one of LA, SA"):
        eigenvalues(objective, per_layer=True, which="both")
    with pytest.raises(UserError, match="draws=1: give an integer, at least 2"):
        trace(objective, per_layer=True, draws=1, estimator="hutchinson")
    with pytest.raises(UserError, match="unknown trace estimator per layer 'hutch\\+\\+'"):
        trace(objective, per_layer=True, estimator="hutch++")


def test_a_class_without_samples_has_no_value_and_no_products():
    objective = Objective(nn.Linear(3, 3), (torch.randn(4, 3), torch.tensor([0, 2, 0, 2])))
    for result in (
        eigenvalues(objective, per_layer=True, per_class=True),
        trace(objective, per_layer=True, per_class=True, draws=3),
    ):
        assert np.isnan(result.values[0, 1]) and not result.converged[0, 1]
        assert np.isfinite(result.values[0, [0, 2]]).all()


def signs(size, probes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([random_signs(size, generator, torch.float64, "cpu") for _ in range(probes)])


@every_layered_case
def test_layer_traces_are_the_parts_of_one_estimate(case):
    """With the same signs z: z_l' (H z)_l, whose sum over all parameters is z' H z."""
    spans, probes = LAYERS[case.name], 7
    objective = build(case)
    layers = trace(objective, per_layer=True, per_class=True, draws=probes, estimator="hutchinson")
    whole = trace(objective, per_class=True, draws=probes, estimator="hutchinson")
    z = signs(objective.num_parameters, probes)
    for c in range(3):
        products = (z * (z @ case.dense(rows=case.y == c)[2])).numpy()
        parts = np.array([products[:, i:j].sum(axis=1) for i, j in spans.values()])
        np.testing.assert_allclose(layers.values[:, c], parts.mean(axis=1), rtol=1e-8, atol=1e-10)
        errors = parts.std(axis=1, ddof=1) / probes**0.5
        np.testing.assert_allclose(layers.standard_errors[:, c], errors, rtol=1e-8, atol=1e-10)
        inside = np.concatenate([np.arange(i, j) for i, j in spans.values()])
        others = np.delete(products, inside, axis=1).sum(axis=1).mean()
        assert layers.values[:, c].sum() + others == pytest.approx(whole.values[0, c], rel=1e-8, abs=1e-10)


@every_layered_case
def test_layer_traces_agree_with_the_dense_blocks_within_their_errors(case):
    result = trace(build(case), per_layer=True, draws=60, estimator="hutchinson")
    hessian = case.dense()[2].numpy()
    exact = [np.trace(hessian[i:j, i:j]) for i, j in LAYERS[case.name].values()]
    assert (np.abs(result.values[:, 0] - exact) <= 4 * result.standard_errors[:, 0] + 1e-9).all()
    assert result.sample_products == 60 * 15


@every_layered_case
def test_several_models_are_compared(case):
    for found in (
        eigenvalues({"a": build(case), "b": build(case)}, per_layer=True),
        trace({"a": build(case), "b": build(case)}, per_layer=True, draws=3),
    ):
        assert [r.label for r in found.values()] == ["a", "b"]
        np.testing.assert_array_equal(found["a"].values, found["b"].values)
        assert set(found.to_frame().model) == {"a", "b"}
