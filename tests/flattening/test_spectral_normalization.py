"""Spectral normalisation against singular values, and against what a loss behind BatchNorm can see."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpness.errors import UserError
from sharpness.flattening import SAM, ClassConditionalStep, SpectralNormalization, build_operation
from sharpness.flattening.spectral_normalization import (
    OncePerStep,
    normalized_layers,
    ordinary_state,
    power_iteration,
)
from sharpness.models import build_model
from sharpness.steps import PlainStep


@pytest.fixture
def normalized(problem):
    """The problem with its network normalised; a copy of the network as it was."""
    plain = copy.deepcopy(problem.model)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        SpectralNormalization().apply(problem.model)
    return problem, plain


def vectors(model):
    return {name: b.clone() for name, b in model.named_buffers() if name.endswith(("_u", "_v"))}


def test_convolutions_and_a_linear_head_are_normalised_and_a_cosine_head_is_not(normalized):
    model, plain = normalized[0].model, normalized[1]
    convolutions = {name for name, m in plain.named_modules() if isinstance(m, nn.Conv2d)}
    assert set(normalized_layers(model)) == convolutions | {"head"}
    cosine = build_model("resnet8", 4, 1, "cosine")
    SpectralNormalization().apply(cosine)
    assert set(normalized_layers(cosine)) == convolutions


def test_after_many_iterations_the_largest_singular_value_of_every_weight_is_one(normalized):
    problem, plain = normalized
    power_iteration(normalized_layers(problem.model), 2000)
    weights = ordinary_state(problem.model)
    for name in normalized_layers(problem.model):
        given = plain.get_submodule(name).weight.detach()
        assert float(torch.linalg.matrix_norm(weights[f"{name}.weight"].flatten(1), 2)) == pytest.approx(1, rel=1e-6)
        sigma = torch.linalg.svdvals(given.flatten(1)).max()
        assert torch.allclose(weights[f"{name}.weight"] * sigma, given, rtol=1e-6)


def test_an_iteration_is_one_of_the_power_method(normalized):
    layer = normalized[0].model.head
    v = layer.parametrizations.weight[0].norm._v.clone()
    given = layer.parametrizations.weight.original.detach()
    power_iteration({"head": layer})
    u = F.normalize(given @ v, dim=0)
    assert torch.allclose(layer.parametrizations.weight[0].norm._u, u)
    v = F.normalize(given.T @ u, dim=0)
    assert torch.allclose(layer.weight, given / (u @ given @ v))


@pytest.mark.parametrize("rule", [PlainStep(), SAM(0.1), ClassConditionalStep("last_block", rho_scale=0.01)])
def test_no_pass_of_a_rule_moves_the_vectors(normalized, rule):
    problem, _ = normalized
    before = vectors(problem.model)
    problem.run(rule)
    problem.model.eval()(problem.batch.x)
    after = vectors(problem.model.train())
    assert before
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_only_weights_that_are_trained_are_iterated(normalized):
    model = normalized[0].model
    model.backbone.requires_grad_(False)
    before = vectors(model)
    power_iteration(normalized_layers(model))
    after = vectors(model)
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        "head.parametrizations.weight.0.norm._u",
        "head.parametrizations.weight.0.norm._v",
    }


def test_the_ordinary_network_has_the_same_logits(normalized):
    problem, plain = normalized
    plain.load_state_dict(ordinary_state(problem.model))
    with torch.no_grad():
        assert torch.equal(plain.eval()(problem.batch.x), problem.model.eval()(problem.batch.x))


def test_a_copy_stays_normalised_on_its_own(normalized):
    model = normalized[0].model
    twin = copy.deepcopy(model)
    power_iteration(normalized_layers(twin), 5)
    assert not torch.equal(twin.backbone.conv1.weight, model.backbone.conv1.weight)


def test_behind_batchnorm_the_gradient_is_that_without_normalisation(problem, same):
    """Under a cosine head no weight's scale is seen, if the epsilon of BatchNorm is nothing."""
    plain = build_model("resnet8", 4, 1, "cosine").double().train()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in plain.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) * 0.3 + (0.5 if p.ndim == 1 else 0))
    for m in plain.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.eps = 1e-30
    model = copy.deepcopy(plain)
    SpectralNormalization().apply(model)
    gradients = []
    for network in (plain, model):
        problem.model = network
        _, found = problem.run(PlainStep())
        gradients.append({name.replace("parametrizations.weight.original", "weight"): g for name, g in found.items()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradients[1][name], gradient, rtol=1e-7, atol=1e-10), name


def test_the_division_is_never_made_under_autocast():
    class Asks(nn.Module):
        def forward(self, weight):
            return torch.is_autocast_enabled(weight.device.type)

    with torch.autocast("cpu", torch.bfloat16):
        assert OncePerStep(Asks())(torch.zeros(1)) is False


def test_it_takes_no_number():
    assert build_operation("sn") == SpectralNormalization()
    with pytest.raises(UserError, match="'1' is no parameter of sn, it has none"):
        build_operation("sn:1")
