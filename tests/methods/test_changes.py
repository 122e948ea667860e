"""What happens to a network between stages."""

import pytest
import torch

from sharpness.flattening import SpectralNormalization
from sharpness.flattening.spectral_normalization import normalized_layers
from sharpness.methods.changes import AddWeightScaling, NewHead, Rescale
from sharpness.models import HEADS, build_model
from sharpness.steps import Context


def context(seed=0):
    return Context(torch.full((10,), 5), 0, 0, torch.Generator().manual_seed(seed))


def copied(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def test_weight_scaling_and_scale_are_the_networks_own():
    network = build_model("resnet8", 10, 1, "cosine")
    AddWeightScaling()(network, context())
    Rescale(20.0)(network, context())
    assert (network.spec.head, network.spec.scale, network.head.head.scale) == ("cosine+lws", 20.0, 20.0)


@pytest.mark.parametrize("head", HEADS)
def test_a_new_head_is_a_function_of_the_generator_and_leaves_the_rest(head):
    states = {}
    for name, seed in (("one", 1), ("two", 1), ("other", 2)):
        torch.manual_seed(17)
        network = build_model("resnet8", 10, 1, head)
        before, parameters = copied(network), dict(network.named_parameters())
        torch.manual_seed(len(states))
        global_state = torch.get_rng_state()
        NewHead()(network, context(seed))
        assert torch.equal(torch.get_rng_state(), global_state)
        assert all(p is parameters[n] for n, p in network.named_parameters()), "the optimiser's parameters stay"
        states[name] = copied(network)
        for key, tensor in states[name].items():
            assert key.startswith("head.") or torch.equal(tensor, before[key])
        weight = next(key for key in before if key.startswith("head.") and before[key].ndim == 2)
        assert not torch.equal(states[name][weight], before[weight])
    assert all(torch.equal(states["one"][key], states["two"][key]) for key in before)
    assert not torch.equal(states["one"][weight], states["other"][weight])


def test_a_new_linear_head_has_the_spread_of_a_fresh_one():
    """He's initialisation: standard deviation (2 / d)^(1/2) for d features, here 64."""
    network = build_model("resnet8", 1000, 1)
    network.head.weight.data.zero_()
    NewHead()(network, context())
    # 64 000 draws: the standard error of the standard deviation is 0.3 % of it.
    assert float(network.head.weight.detach().std()) == pytest.approx((2 / 64) ** 0.5, rel=0.015)


def test_a_new_head_keeps_type_and_precision():
    network = build_model("resnet8", 10, 1).double()
    NewHead()(network, context())
    assert network.head.weight.dtype == torch.float64


def test_a_new_head_under_spectral_normalisation_is_the_same_one_normalised():
    plain, normalized = build_model("resnet8", 10, 1), build_model("resnet8", 10, 1)
    SpectralNormalization().apply(normalized)
    vector = normalized.head.parametrizations.weight[0].norm._u.clone()
    NewHead()(plain, context(3))
    NewHead()(normalized, context(3))
    assert "head" in normalized_layers(normalized)
    assert torch.equal(normalized.head.parametrizations.weight.original, plain.head.weight)
    assert not torch.equal(normalized.head.parametrizations.weight[0].norm._u, vector)
    largest = float(torch.linalg.matrix_norm(normalized.head.weight.detach(), 2))
    assert largest == pytest.approx(1, rel=0.05), "torch takes 15 power iterations for fresh vectors"
