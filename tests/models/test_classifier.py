"""Networks built by name, and what methods change in them between stages."""

import pytest
import torch

from sharpness.errors import UserError
from sharpness.models import HEADS, CosineHead, ModelSpec, build_model


def size(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("classes", "head", "parameters"),
    [(10, "linear", 464_154), (10, "cosine", 464_144), (100, "cosine", 469_904)],
)
def test_resnet32_has_the_published_number_of_parameters(classes, head, parameters):
    network = build_model("resnet32", classes, head=head)
    assert size(network) == parameters
    assert size(network.backbone) == 463_504


@pytest.mark.parametrize("head", HEADS)
def test_a_specification_builds_the_same_architecture_again(head):
    network = build_model("resnet8", 5, in_channels=1, head=head).eval()
    twin = build_model(**ModelSpec(**network.spec.to_dict()).to_dict()).eval()
    twin.load_state_dict(network.state_dict())
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(twin(x), network(x))
    assert twin.spec == network.spec


def test_logits_are_the_head_of_the_features():
    network = build_model("resnet8", 5, in_channels=1).eval()
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(x), network.head(network.backbone(x)))


@pytest.mark.parametrize("head", ["cosine", "cosine+lws"])
def test_rescaling_multiplies_the_logits_and_is_recorded(head):
    network = build_model("resnet8", 5, in_channels=1, head=head).eval()
    assert network.spec.scale == 30
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    before = network(x)
    network.rescale(20)
    assert torch.allclose(network(x), before * 20 / 30, rtol=1e-5)
    assert network.spec.scale == 20
    assert build_model(**network.spec.to_dict()).spec == network.spec


def test_a_linear_head_has_no_scale_to_change():
    with pytest.raises(ValueError, match="LinearHead has no scale"):
        build_model("resnet8", 5).rescale(20)


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_adding_weight_scaling_changes_nothing_at_first(head):
    network = build_model("resnet8", 5, in_channels=1, head=head).eval()
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    before, parameters = network(x), size(network)
    network.add_weight_scaling()
    assert torch.equal(network(x), before)
    assert size(network) == parameters + 5
    twin = build_model(**network.spec.to_dict())
    twin.load_state_dict(network.state_dict())
    assert torch.equal(twin.eval()(x), before)


def test_weight_scaling_has_the_precision_of_the_network():
    network = build_model("resnet8", 5).double()
    network.add_weight_scaling()
    assert {p.dtype for p in network.parameters()} == {torch.float64}


def test_the_scale_given_is_the_scale_of_the_head():
    network = build_model("resnet8", 5, head="cosine", scale=16.0)
    assert isinstance(network.head, CosineHead)
    assert (network.head.scale, network.spec.scale) == (16.0, 16.0)


def test_an_unknown_architecture_lists_the_known_ones():
    with pytest.raises(UserError, match="resnet8, resnet14"):
        build_model("vgg", 10)
