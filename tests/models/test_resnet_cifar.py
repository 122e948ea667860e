"""The residual networks for small images, against the published counts and a forward pass written out."""

import pytest
import torch
from torch.nn import functional as F

from sharpness.errors import UserError
from sharpness.models import BasicBlock, CifarResNet


def size(module):
    return sum(p.numel() for p in module.parameters())


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(3)


def test_resnet32_has_the_published_number_of_parameters():
    assert size(CifarResNet(32)) == 463_504


@pytest.mark.parametrize("depth", [8, 14, 20, 32, 44, 56, 110])
def test_depth_counts_the_convolutions_and_the_classifier(depth):
    convolutions = [m for m in CifarResNet(depth).modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) + 1 == depth
    assert all(m.bias is None for m in convolutions)


@pytest.mark.parametrize("depth", [2, 9, 18, 52])
def test_other_depths_are_refused(depth):
    with pytest.raises(UserError, match=f"depth {depth} is not 6n"):
        CifarResNet(depth)


@pytest.mark.parametrize(("in_planes", "planes"), [(16, 32), (32, 64)])
def test_the_shortcut_subsamples_and_pads_both_sides_with_zeros(in_planes, planes, generator):
    block = BasicBlock(in_planes, planes, 2).eval()
    torch.nn.init.zeros_(block.bn2.weight)
    x = torch.rand(2, in_planes, 6, 6, generator=generator)
    with torch.no_grad():
        out = block(x)
    side = (planes - in_planes) // 2
    assert torch.equal(out[:, side : side + in_planes], x[:, :, ::2, ::2])
    assert out[:, :side].count_nonzero() == 0
    assert out[:, side + in_planes :].count_nonzero() == 0


def test_the_shortcut_of_a_plain_block_is_the_identity(generator):
    block = BasicBlock(16, 16, 1).eval()
    torch.nn.init.zeros_(block.bn2.weight)
    x = torch.rand(2, 16, 5, 5, generator=generator)
    assert torch.equal(block(x), x)
    assert sum(1 for _ in block.children()) == 4, "shortcuts have no parameters"


def forward_written_out(state, x, blocks_per_group):
    """The network of He et al. from its state, in eval mode."""

    def norm(x, name):
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        shaped = [t[:, None, None] for t in (mean, var, state[f"{name}.weight"], state[f"{name}.bias"])]
        return (x - shaped[0]) / torch.sqrt(shaped[1] + 1e-5) * shaped[2] + shaped[3]

    x = norm(F.conv2d(x, state["conv1.weight"], padding=1), "bn1").clamp_min(0)
    for group in (1, 2, 3):
        for block in range(blocks_per_group):
            name = f"layer{group}.{block}"
            stride = 2 if group > 1 and block == 0 else 1
            out = F.conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1)
            out = norm(out, f"{name}.bn1").clamp_min(0)
            out = norm(F.conv2d(out, state[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
            if stride == 2:
                side = torch.zeros(len(x), out.shape[1] // 4, *out.shape[2:], dtype=x.dtype)
                x = torch.cat([side, x[:, :, ::2, ::2], side], dim=1)
            x = (out + x).clamp_min(0)
    return x.flatten(2).mean(2)


@pytest.mark.parametrize(("depth", "channels"), [(8, 1), (32, 3)])
def test_features_are_those_of_the_paper(depth, channels, generator):
    network = CifarResNet(depth, channels).double().eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    x = torch.randn(3, channels, 12, 12, dtype=torch.float64, generator=generator)
    expected = forward_written_out(network.state_dict(), x, (depth - 2) // 6)
    assert torch.allclose(network(x), expected, rtol=1e-12, atol=1e-12)
    assert expected.shape == (3, network.num_features)


@pytest.mark.parametrize("training", [True, False])
def test_the_two_halves_compose_to_the_forward_pass(training, generator):
    network = CifarResNet(14, 1).train(training)
    x = torch.randn(4, 1, 8, 8, generator=generator)
    halves = network.from_last_block(network.before_last_block(x))
    assert torch.equal(halves, network(x))


@pytest.mark.parametrize("group", [0, 1, 2, 3])
def test_the_parts_on_both_sides_of_a_group_compose_to_the_forward_pass(group, generator):
    network = CifarResNet(14, 1)
    x = torch.randn(4, 1, 8, 8, generator=generator)
    between = network.forward_to(x, group)
    assert torch.equal(network.forward_from(between, group), network(x))
    network.forward_from(between.detach().requires_grad_(), group).sum().backward()
    above = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None}
    assert above == {f"layer{g}" for g in range(group + 1, 4)}


def test_only_the_last_block_lies_above_the_cut(generator):
    network = CifarResNet(14, 1)
    hidden = network.before_last_block(torch.randn(4, 1, 8, 8, generator=generator)).detach()
    network.from_last_block(hidden).sum().backward()
    above = {name for name, p in network.named_parameters() if p.grad is not None}
    assert above == {n for n, _ in network.named_parameters() if n.startswith("layer3.1.")}
    assert network.last_block is network.layer3[1]


def test_convolutions_start_with_the_variance_of_he():
    for name, p in CifarResNet(32).named_parameters():
        if p.ndim == 4:
            fan_in = p[0].numel()
            deviations = (p.std() / (2 / fan_in) ** 0.5 - 1) * (2 * p.numel()) ** 0.5
            assert abs(deviations) < 6, name
