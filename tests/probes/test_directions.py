"""Directions: the same noise everywhere, normalised exactly as stated."""

import numpy as np
import pytest
import torch
from torch import nn

from sharpness import Objective, UserError
from sharpness.models import build_model
from sharpness.probes import gaussian, gaussian_pair, normalize

X, Y = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])


def network(head="linear", dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    model = build_model("resnet8", 10, 1, head).eval().to(dtype)
    return Objective(model, (X.to(dtype), Y))


def pieces(objective, flat):
    sizes = [p.numel() for p in objective.parameters]
    return {
        n: v.view(p.shape) for n, p, v in zip(objective.names, objective.parameters, flat.split(sizes), strict=True)
    }


def test_every_filter_of_the_direction_has_the_norm_of_the_models_filter():
    objective = network()
    for name, d in pieces(objective, gaussian(objective, 0)).items():
        p = dict(objective.model.named_parameters())[name].detach()
        if p.ndim > 1:
            torch.testing.assert_close(d.flatten(1).norm(dim=1), p.flatten(1).norm(dim=1), rtol=1e-5, atol=1e-6)
        else:
            assert not d.any()


def test_the_filters_of_a_cosine_head_are_its_columns():
    objective = network("cosine")
    d = pieces(objective, gaussian(objective, 0))["head.weight"]
    weight = objective.model.head.weight.detach()
    torch.testing.assert_close(d.norm(dim=0), weight.norm(dim=0), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(d.norm(dim=1), weight.norm(dim=1), rtol=1e-2)


def test_layer_normalisation_gives_every_layer_its_norm_and_not_every_filter():
    objective = network()
    d = pieces(objective, gaussian(objective, 0, normalization="layer"))["backbone.layer1.0.conv1.weight"]
    p = objective.model.get_parameter("backbone.layer1.0.conv1.weight").detach()
    assert float(d.norm()) == pytest.approx(float(p.norm()), rel=1e-5)
    assert not torch.allclose(d.flatten(1).norm(dim=1), p.flatten(1).norm(dim=1), rtol=1e-2)


def test_without_normalisation_all_entries_are_standard_normal():
    flat = gaussian(network(), 0, normalization=None)
    k = len(flat)
    assert abs(float(flat.mean())) < 4 / k**0.5
    assert abs(float(flat.var()) - 1) < 4 * (2 / k) ** 0.5
    assert abs(float((flat < 0).double().mean()) - 0.5) < 2 / k**0.5


def test_the_same_seed_draws_the_same_noise_for_other_weights_heads_and_precision():
    plain = pieces(network(), gaussian(network(), 3, seed=5, normalization=None))
    for other in (network(seed=1), network("linear+lws"), network(dtype=torch.float64), network("cosine")):
        drawn = pieces(other, gaussian(other, 3, seed=5, normalization=None))
        for name in ("backbone.conv1.weight", "backbone.layer3.0.conv2.weight", "backbone.bn1.bias"):
            torch.testing.assert_close(drawn[name].float(), plain[name], rtol=0, atol=1e-6)
        head = next(v for n, v in drawn.items() if n.startswith("head") and v.ndim == 2).float()
        head = head.T if head.shape[0] == 64 else head
        torch.testing.assert_close(head, plain["head.weight"], rtol=0, atol=1e-6)


def test_draws_and_seeds_differ():
    objective = network()
    first = gaussian(objective, 0, normalization=None)
    for other in (gaussian(objective, 1, normalization=None), gaussian(objective, 0, seed=1, normalization=None)):
        cosine = float(first @ other / first.norm() / other.norm())
        assert abs(cosine) < 5 / len(first) ** 0.5


@pytest.mark.parametrize("normalization", ["filter", "layer", None])
def test_the_pair_is_orthogonal_and_keeps_its_norms(normalization):
    objective = network(dtype=torch.float64)
    one, two = gaussian_pair(objective, normalization=normalization)
    assert abs(float(one @ two / one.norm() / two.norm())) < 1e-12
    if normalization:
        for d in (one, two):
            torch.testing.assert_close(normalize(objective, d, normalization), d, rtol=1e-9, atol=1e-12)
    if normalization == "filter":
        a, b = pieces(objective, one), pieces(objective, two)
        for name in a:
            if a[name].ndim > 1:
                inner = (a[name].flatten(1) * b[name].flatten(1)).sum(1)
                np.testing.assert_allclose(inner.numpy(), 0, atol=1e-10)


def test_the_global_generators_are_left_alone():
    objective = network()
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    gaussian_pair(objective)
    assert torch.equal(state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()


def test_an_unknown_normalisation_is_refused():
    with pytest.raises(UserError, match="normalization"):
        gaussian(network(), 0, normalization="weight")


def test_a_scalar_parameter_is_no_filter():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.scale = nn.Linear(3, 2), nn.Parameter(torch.tensor(2.0))

        def forward(self, x):
            return self.scale * self.linear(x)

    objective = Objective(Scaled(), (torch.randn(4, 3), torch.tensor([0, 1, 0, 1])))
    named = pieces(objective, gaussian(objective, 0))
    assert named["scale"] == 0
    assert named["linear.weight"].any()
