"""Directions by name: what the loss suggests, alone or mixed, orthogonal and of the length that is stated."""

import numpy as np
import pytest
import torch
from torch import nn

from sharpness import Objective, UserError
from sharpness.probes.directions.gaussian import gaussian, normalize
from sharpness.probes.landscapes.named_directions import named_directions


def of(case, **options):
    return Objective(case.model, (case.x, case.y), case.loss, num_classes=3, **options)


def small(dtype=torch.float64):
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)
    return Objective(model, (torch.randn(12, 4, dtype=dtype), torch.arange(12) % 3))


def test_the_gradient_is_a_unit_vector_of_the_dense_gradient(case):
    _, gradient, _ = case.dense()
    found = named_directions(of(case), "gradient", 1)
    torch.testing.assert_close(found.vectors[0], gradient / gradient.norm(), rtol=1e-9, atol=1e-11)
    assert (found.name, found.normalization) == ("gradient", None)


def test_hessian_directions_are_the_top_eigenvectors_of_the_dense_hessian(quadratic, symmetric):
    a = symmetric([5.0, 2.0, 0.3, -1.0, -7.0])
    _, vectors = np.linalg.eigh(a)
    found = named_directions(quadratic(a), "hessian", 2)
    assert abs(found.vectors[0].numpy() @ vectors[:, -1]) == pytest.approx(1, abs=1e-6)
    assert abs(found.vectors[1].numpy() @ vectors[:, -2]) == pytest.approx(1, abs=1e-6)
    for v in found.vectors:
        assert float(v[v.abs().argmax()]) > 0


def test_eigenvectors_that_have_not_converged_are_told(monkeypatch, caplog):
    from sharpness.probes.landscapes import named_directions as named

    eigenvalues = named.eigenvalues
    monkeypatch.setattr(named, "eigenvalues", lambda o, **settings: eigenvalues(o, max_iterations=2, **settings))
    with caplog.at_level("WARNING", logger="sharpness"):
        named_directions(small(), "hessian", 2)
    assert "not converged" in caplog.text


@pytest.mark.parametrize("normalization", ["filter", "layer", None])
def test_gaussian_ones_are_those_of_gaussian_and_of_the_pair(normalization):
    objective = small()
    for spec in (None, "gaussian"):
        line = named_directions(objective, spec, 1, 4, normalization)
        assert torch.equal(line.vectors[0], gaussian(objective, 0, 4, normalization))
        plane = named_directions(objective, spec, 2, 4, normalization)
        second = gaussian(objective, 1, 4, normalization, orthogonal_to=plane.vectors[0])
        assert torch.equal(plane.vectors, torch.stack([line.vectors[0], second]))
        assert (plane.name, plane.normalization, plane.seed) == ("gaussian", normalization, 4)
    both = named_directions(objective, (None, "gaussian"), 2, 4, normalization)
    assert torch.equal(both.vectors, plane.vectors)


@pytest.mark.parametrize("spec", [("gradient", "hessian"), "gradient+hessian", ("hessian", "gradient")])
def test_mixed_names_are_orthonormal_and_the_first_is_as_it_is_alone(spec):
    objective = small()
    found = named_directions(objective, spec, 2)
    parts = spec.split("+") if isinstance(spec, str) else spec
    assert found.name == "+".join(parts)
    alone = named_directions(objective, parts[0], 1).vectors[0]
    torch.testing.assert_close(found.vectors[0], alone, rtol=1e-9, atol=1e-12)
    gram = found.vectors @ found.vectors.T
    torch.testing.assert_close(gram, torch.eye(2, dtype=torch.float64), rtol=0, atol=1e-12)
    # The second is in the span of both.
    second = named_directions(objective, parts[1], 1).vectors[0]
    left = second - found.vectors.T @ (found.vectors @ second)
    assert float(left.norm()) < 1e-6


@pytest.mark.parametrize("order", [("hessian", "gaussian"), ("gaussian", "hessian")])
@pytest.mark.parametrize("normalization", ["filter", "layer", None])
def test_a_gaussian_direction_beside_another_keeps_its_normalisation(order, normalization):
    objective = small()
    found = named_directions(objective, order, 2, 0, normalization)
    noise, top = (found.vectors[order.index(name)] for name in ("gaussian", "hessian"))
    assert abs(float(noise @ top)) < 1e-12 * float(noise.norm())
    assert float(top.norm()) == pytest.approx(1, rel=1e-12)
    if normalization:
        torch.testing.assert_close(normalize(objective, noise, normalization), noise, rtol=1e-12, atol=1e-14)
    assert found.normalization == normalization


def test_given_vectors_are_taken_as_they_are():
    objective = small()
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, objective.num_parameters, generator=generator, dtype=torch.float64)
    assert torch.equal(named_directions(objective, a, 1).vectors[0], a)
    assert torch.equal(named_directions(objective, a.numpy(), 1).vectors[0], a)
    found = named_directions(objective, (a, b), 2)
    assert torch.equal(found.vectors, torch.stack([a, b]))
    assert (found.name, found.normalization) == ("given", None)
    mixed = named_directions(objective, ("gradient", a), 2)
    assert mixed.name == "gradient+given"
    assert torch.equal(mixed.vectors[1], a)
    assert abs(float(mixed.vectors[0] @ a)) < 1e-12 * float(a.norm())
    assert float(mixed.vectors[0].norm()) == pytest.approx(1, rel=1e-12)


def test_directions_are_taken_again_as_they_are():
    objective = small()
    found = named_directions(objective, "hessian", 2)
    again = named_directions(objective, found, 2, normalization=None)
    assert again.name == "hessian"
    assert torch.equal(again.vectors, found.vectors)
    assert torch.equal(named_directions(objective, found, 1).vectors, found.vectors[:1])


@pytest.mark.parametrize(
    ("spec", "number", "message"),
    [
        ("random", 1, "unknown directions 'random': choose 'gaussian', 'gradient', 'hessian', or give vectors"),
        (("gradient", "random"), 2, "unknown directions 'random'"),
        ("gradient", 2, "there is one gradient"),
        ("gradient+hessian", 1, "2 directions were given: a line needs one"),
        (("gradient",), 2, "1 directions were given: a plane needs two"),
        (torch.ones(5), 1, r"needs \(51,\)"),
        (torch.full((51,), torch.inf), 1, "not finite"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(spec, number, message):
    with pytest.raises(UserError, match=message) as caught:
        named_directions(small(), spec, number)
    assert "\n" not in str(caught.value)


def test_parallel_directions_are_refused():
    objective = small()
    with pytest.raises(UserError, match="gradient direction is parallel"):
        named_directions(objective, ("gradient", -3 * objective.gradient()), 2)


def test_a_gradient_that_is_zero_is_refused(quadratic, symmetric):
    with pytest.raises(UserError, match="gradient is zero"):
        named_directions(quadratic(symmetric([2.0, 1.0]), at_minimum=True), "gradient", 1)


@pytest.mark.parametrize("spec", ["gaussian", "hessian", ("gradient", "hessian"), ("gradient", "gaussian")])
def test_model_and_random_numbers_are_left_as_they_were(spec):
    objective = small(torch.float32)
    before, state, numpy_state = objective.model_sha256(), torch.get_rng_state(), np.random.get_state()[1].copy()
    named_directions(objective, spec, 2)
    assert objective.model_sha256() == before
    assert all(p.grad is None for p in objective.model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()


def test_the_gradient_is_taken_at_the_statistics_of_the_points():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double().eval()
    x, y = torch.randn(40, 3, dtype=torch.float64), torch.arange(40) % 2
    objective = Objective(model, (x, y), batchnorm="recalibrate")
    found = named_directions(objective, "gradient", 1).vectors[0]
    hidden = model[0](x).detach()
    model[1].running_mean.copy_(hidden.mean(0))
    model[1].running_var.copy_(hidden.var(0))
    loss = nn.functional.cross_entropy(model(x), y)
    expected = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))])
    torch.testing.assert_close(found, expected / expected.norm(), rtol=1e-6, atol=1e-9)
