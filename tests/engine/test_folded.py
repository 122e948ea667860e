"""Models that are folded again and again in training: always the outputs of the module itself, as it is now."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from sharpness.engine.folded import Folded, Refolded, folded
from sharpness.engine.program import Untraceable
from sharpness.models import build_model


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_model("resnet8", 3, 3).double().train()


@pytest.fixture
def x():
    return torch.randn(5, 3, 8, 8, dtype=torch.float64)


def outputs(network, x):
    with torch.no_grad():
        modes = [(m, m.training) for m in network.modules()]
        found = network.eval()(x)
        for module, training in modes:
            module.training = training
    return found


def step(network, x):
    """Weights and running statistics change, as in an epoch."""
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    network(x).square().sum().backward()
    optimizer.step()


def test_after_every_epoch_the_outputs_are_those_of_the_module_and_it_is_traced_once(network, x, monkeypatch):
    made = []
    monkeypatch.setattr("sharpness.engine.folded.folded", lambda *args: made.append(1) or folded(*args))
    refolded = Refolded(network, nullcontext)
    for _ in range(3):
        step(network, x)
        torch.testing.assert_close(refolded.now(x[:2])(x), outputs(network, x), rtol=1e-9, atol=1e-9)
        assert all(m.training for m in network.modules())
    assert made == [1]


class ByHand(nn.BatchNorm2d):
    """BatchNorm in eval mode with a scale that is computed from buffers alone, as that of a frozen one."""

    def forward(self, x):
        if self.training:
            return super().forward(x)
        scale = (self.running_var + self.eps).rsqrt()
        return (x - self.running_mean.view(1, -1, 1, 1)) * scale.view(1, -1, 1, 1)


def test_what_is_computed_from_buffers_alone_is_folded_and_follows_them(x):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), ByHand(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
    network = nn.Sequential(*layers).double().train()
    refolded = Refolded(network, nullcontext)
    for _ in range(3):
        step(network, x)
        now = refolded.now(x[:2])
        assert now is not network
        torch.testing.assert_close(now(x), outputs(network, x), rtol=1e-9, atol=1e-9)


def test_tensors_that_are_no_buffers_are_not_taken_for_constants(x):
    class Shifting(ByHand):
        def forward(self, x):
            return super().forward(x) + 2 * self.bound

    network = Shifting(3).double().eval()
    network.bound = torch.ones(1, 3, 1, 1).double()
    with pytest.raises(Untraceable, match="no parameters or buffers"):
        Folded(network, x[:2], torch.float64)


@pytest.mark.parametrize("change", ["hook", "attribute", "layer", "parameter"])
def test_a_changed_structure_is_folded_again(network, x, change):
    refolded = Refolded(network, nullcontext)
    refolded.now(x[:2])
    network.eval()
    if change == "hook":
        network.backbone.bn1.register_forward_hook(lambda module, inputs, output: 2 * output)
    elif change == "attribute":
        network.backbone.bn1.eps = 0.5
    elif change == "layer":
        network.head = nn.Linear(64, 4).double()
    else:
        network.head.weight = nn.Parameter(torch.randn_like(network.head.weight))
    now = refolded.now(x[:2])
    torch.testing.assert_close(now(x), network.eval()(x), rtol=1e-9, atol=1e-9)


def test_a_network_that_cannot_be_traced_is_called_itself(network, x):
    forward = network.backbone.forward
    network.backbone.forward = lambda x: forward(x) if bool(x.sum() > -1e9) else x
    assert Refolded(network, nullcontext).now(x[:2]) is network
    assert folded(network, x[:2], nullcontext) is None


def test_precision_is_that_of_the_context(network, x):
    network, x = network.float(), x.float()
    made = folded(network, x[:2], lambda: torch.autocast("cpu", torch.bfloat16))
    assert isinstance(made, Folded)
    error = (made.now()(x) - outputs(network, x)).abs().max()
    exact = folded(network, x[:2], nullcontext)
    assert 1e-5 < float(error) < 0.1 * float(outputs(network, x).abs().max())
    torch.testing.assert_close(exact.now()(x), outputs(network, x), rtol=1e-4, atol=1e-5)
