"""A frozen network says what the network said, to whoever asks, whatever happens around it."""

import torch
from torch import nn

from sharpness.models import Frozen, build_model


def test_it_is_the_network_in_eval_mode_and_a_copy():
    network = build_model("resnet8", 3, 1, "cosine")
    x = torch.randn(2, 1, 8, 8)
    frozen = Frozen(network)
    expected = network.eval()(x)
    assert torch.equal(frozen(x), expected)
    with torch.no_grad():
        for p in network.parameters():
            p.zero_()
    assert torch.equal(frozen(x), expected)


def test_optimisers_modes_and_statistics_pass_it_by():
    holder = nn.Module()
    holder.frozen = Frozen(build_model("resnet8", 3, 1))
    before = {name: t.clone() for name, t in holder.state_dict().items()}
    holder.train()
    assert list(holder.parameters()) == []
    x = torch.randn(2, 1, 8, 8, requires_grad=True)
    holder.frozen(x).sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(torch.equal(t, before[name]) for name, t in holder.state_dict().items())
    assert not any(m.training for m in holder.frozen.modules())


def test_its_weights_are_saved_and_come_back():
    one, other = (Frozen(build_model("resnet8", 3, 1)) for _ in range(2))
    other.load_state_dict(one.state_dict())
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(one(x), other(x))
