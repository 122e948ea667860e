"""tau-normalisation of a classifier."""

import pytest
import torch

from sharpness.methods import build_recipe
from sharpness.methods.tau_norm import NormalizeRows
from sharpness.models import build_model
from sharpness.steps import Context


@pytest.fixture
def normalized(counts10):
    """A function from tau to the weights before, and the network after."""

    def run(tau):
        network = build_model("resnet8", 10, 1).double()
        with torch.no_grad():
            generator = torch.Generator().manual_seed(4)
            network.head.weight.normal_(generator=generator)
            network.head.bias.fill_(3.0)
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        NormalizeRows(tau)(network, Context(counts10, 0, 0))
        return before, network

    return run


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 2.0])
def test_rows_are_divided_by_a_power_of_their_length_and_the_bias_goes(normalized, tau):
    before, network = normalized(tau)
    old, new = before["head.weight"], network.head.weight.detach()
    for w, v in zip(old, new, strict=True):
        assert torch.allclose(v, w / sum(x * x for x in w.tolist()) ** (tau / 2), rtol=1e-12)
    assert not network.head.bias.any()
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items() if n.startswith("backbone."))


def test_tau_0_leaves_the_weights_and_tau_1_makes_unit_rows(normalized):
    before, network = normalized(0.0)
    assert torch.equal(network.head.weight, before["head.weight"])
    _, network = normalized(1.0)
    assert torch.allclose(network.head.weight.norm(dim=1), torch.ones(10, dtype=torch.float64), rtol=1e-12)


def test_a_row_of_zeros_stays_one(counts10):
    network = build_model("resnet8", 10, 1)
    with torch.no_grad():
        network.head.weight[3] = 0
    NormalizeRows(1.0)(network, Context(counts10, 0, 0))
    assert not network.head.weight[3].any()


def test_other_heads_have_no_rows_to_normalise(counts10):
    with pytest.raises(ValueError, match="CosineHead has no rows"):
        NormalizeRows()(build_model("resnet8", 10, head="cosine"), Context(counts10, 0, 0))


def test_nothing_is_trained_after_the_baseline(cifar):
    first, second = build_recipe("tau-norm", cifar(), tau=0.7).stages
    assert (first,) == build_recipe("ce", cifar()).stages
    assert (second.epochs, second.enter) == (0, (NormalizeRows(0.7),))
    assert any("tau = 0.7" in note for note in build_recipe("tau-norm", cifar(), tau=0.7).notes)
