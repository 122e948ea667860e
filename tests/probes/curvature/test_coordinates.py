"""Filter coordinates: dense D H D, and networks that are rescaled without a change of their function."""

import numpy as np
import pytest
import torch
from torch import nn

from sharpness import (
    Objective,
    UserError,
    compare,
    eigenvalues,
    interpolate,
    measure,
    owners,
    random_perturbation,
    spectral_density,
    trace,
    worst_case,
)


def network():
    """A convolution before BatchNorm with statistics of its own, and a linear head."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)
    ).double()
    norm = model[1]
    with torch.no_grad():
        norm.running_mean.uniform_(-0.2, 0.2)
        norm.running_var.uniform_(0.5, 1.5)
        norm.weight.uniform_(0.5, 1.5)
    return model.eval()


def rescaled(factor):
    """The same function, with the convolution multiplied by a factor, which its statistics see."""
    model = network()
    convolution, norm = model[0], model[1]
    with torch.no_grad():
        convolution.weight *= factor
        convolution.bias *= factor
        norm.running_mean *= factor
        norm.running_var.add_(norm.eps).mul_(factor**2).sub_(norm.eps)
    return model


def data():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(12, 1, 4, 4, generator=generator).double(), torch.arange(12) % 3


@pytest.fixture(scope="module")
def objective():
    return Objective(network(), data())


def dense(objective):
    """D H D by torch.func, with norms of filters written out."""
    named = dict(objective.model.named_parameters())
    sizes = [p.numel() for p in named.values()]
    x, y = objective.x, objective.y

    def loss(w):
        pieces = w.split(sizes)
        moved = {n: v.view_as(p) for (n, p), v in zip(named.items(), pieces, strict=True)}
        return nn.functional.cross_entropy(torch.func.functional_call(objective.model, moved, (x,)), y)

    hessian = torch.func.hessian(loss)(torch.cat([p.detach().reshape(-1) for p in named.values()]))
    units = []
    for p in named.values():
        flat = p.detach().reshape(len(p), -1)
        norms = flat.norm(dim=1, keepdim=True) if p.ndim > 1 else p.detach().norm().reshape(1, 1)
        units.append(norms.expand_as(flat).reshape(-1))
    units = torch.cat(units)
    return (units[:, None] * hessian * units).numpy(), units


def test_probes_are_of_the_dense_matrix_in_filter_coordinates(objective):
    matrix, units = dense(objective)
    values, vectors = np.linalg.eigh(matrix)
    found = eigenvalues(objective, 2, "both", coordinates="filter", tol=1e-6, max_iterations=200)
    np.testing.assert_allclose(found.values, values[[-1, -2, 1, 0]], rtol=1e-5, atol=1e-9)
    assert abs(found.vectors[0] @ vectors[:, -1]) == pytest.approx(1)
    one = torch.ones(len(units)).double()
    filtered = objective.in_coordinates("filter")
    np.testing.assert_allclose(filtered.hvp(one), matrix.sum(1), atol=1e-10)
    np.testing.assert_allclose(filtered.quadratic_forms(one).mean(), matrix.sum(), rtol=1e-8)
    np.testing.assert_allclose(filtered.gradient(), objective.gradient() * units, rtol=1e-12)
    with filtered.at(0.01 * one), objective.at(-0.01 * units):
        assert filtered.loss() == pytest.approx(objective.evaluate().mean, abs=1e-15)
    assert filtered.evaluation()(0.1 * one).mean == pytest.approx(objective.evaluation()(0.1 * units).mean)
    traced = trace(objective, draws=200, coordinates="filter")
    assert abs(traced.overall[0] - np.trace(matrix)) < 4 * traced.overall_standard_errors[0]
    density = spectral_density(objective, draws=2, steps=40, coordinates="filter")
    assert np.nanmax(density.nodes) == pytest.approx(values[-1], rel=1e-6)


def test_no_rescaling_before_batchnorm_changes_filter_coordinates(objective):
    other = Objective(rescaled(1 / 4), data())
    assert other.loss() == pytest.approx(objective.loss(), rel=1e-12)
    options = {"tol": 1e-7, "max_iterations": 300}
    plain = [eigenvalues(o, **options).values[0] for o in (objective, other)]
    filtered = [eigenvalues(o, coordinates="filter", **options).values[0] for o in (objective, other)]
    assert plain[1] > 2 * plain[0]
    assert filtered[1] == pytest.approx(filtered[0], rel=1e-4)
    shares = [owners(o, k=2, coordinates="filter", **options).shares for o in (objective, other)]
    np.testing.assert_allclose(shares[1], shares[0], atol=1e-4)


def test_a_table_and_its_pictures_say_which_coordinates_they_are_in(objective):
    tables = {
        name: measure(objective, "lambda_max", coordinates=name, tol=1e-2, max_iterations=60)
        for name in ("plain", "filter")
    }
    expected = eigenvalues(objective, coordinates="filter", tol=1e-2, max_iterations=60).values[0]
    assert tables["filter"].overall[0] == pytest.approx(expected, rel=1e-2)
    own = measure(objective.in_coordinates("filter"), "lambda_max", tol=1e-2, max_iterations=60)
    assert own.overall == tables["filter"].overall and own.provenance["coordinates"] == "filter"
    asked = measure(objective.in_coordinates("filter"), "lambda_max", coordinates="plain", tol=1e-2, max_iterations=60)
    assert asked.overall == tables["plain"].overall and asked.provenance["coordinates"] == "plain"
    assert tables["filter"].plot().get_ylabel().endswith("(filter coordinates)")
    assert eigenvalues(objective, coordinates="filter").plot().get_ylabel().endswith("(filter coordinates)")
    with pytest.raises(UserError, match="coordinates is plain and filter"):
        compare(tables)


def test_unknown_coordinates_are_refused(objective):
    with pytest.raises(UserError, match="unknown coordinates 'polar': choose one of plain, filter"):
        eigenvalues(objective, coordinates="polar")
    with pytest.raises(UserError, match="unknown coordinates 'polar'"):
        measure(objective, "loss", coordinates="polar")


def test_displacements_in_filter_coordinates_are_those_of_the_weights(objective):
    """Other models are reached, and what rescaling does not change is the same in both coordinates."""
    filtered, generator = objective.in_coordinates("filter"), torch.Generator().manual_seed(0)
    other = network()
    with torch.no_grad():
        for p in filter(torch.any, other.parameters()):
            p += 0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    line = interpolate(filtered, other, (0, 1, 3))
    assert line.losses[-1] == pytest.approx(Objective(other, data()).loss(), rel=1e-9)
    for probe in (
        lambda o: random_perturbation(o, [0.1], 2).losses,
        lambda o: worst_case(o, adaptive=True).overall,
        lambda o: measure(o, "fisher_rao_norm").overall,
    ):
        np.testing.assert_allclose(probe(filtered), probe(objective), rtol=1e-9)
    with torch.no_grad():
        other[1].bias += 1
    with pytest.raises(UserError, match="a filter of zeros is moved"):
        interpolate(filtered, other)


def test_filter_coordinates_are_those_of_the_present_filters():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    data = torch.randn(12, 4, dtype=torch.float64), torch.arange(12) % 3
    kept, names = Objective(model, data).in_coordinates("filter"), "lambda_max,worst_rise,fisher_rao_norm"
    measure(kept, names)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(torch.rand(p.shape, dtype=torch.float64) * 3)
    fresh = Objective(model, data).in_coordinates("filter")
    np.testing.assert_allclose(measure(kept, names).values, measure(fresh, names).values, rtol=1e-6)
