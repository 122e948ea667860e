"""The residual networks for large images: published sizes, and a forward pass written out."""

import pytest
import torch
from torch.nn import functional as F

from sharpness.errors import UserError
from sharpness.models import BACKBONES, PLANS, CifarResNet, ResNet, WideResNet, build_resnet


def size(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
        ("resnext50", 25_028_904),
        ("resnext101-32x8d", 88_791_336),
    ],
)
def test_sizes_are_the_published_ones_with_their_classifier(name, published):
    with torch.device("meta"):
        network = build_resnet(name)
    assert size(network) + 1000 * (network.num_features + 1) == published


def test_wide_resnet_28_10_has_the_published_size():
    """36.5 million parameters with the classifier for CIFAR-10."""
    with torch.device("meta"):
        network = WideResNet(4, 10, bias=False)
    assert round((size(network) + 10 * (network.num_features + 1)) / 1e6, 1) == 36.5


@pytest.mark.parametrize("name", PLANS)
def test_every_plan_is_in_the_registry(name):
    with torch.device("meta"):
        assert size(BACKBONES[name](1)) < size(BACKBONES[name](3))


def test_a_name_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="resnet12"):
        build_resnet("resnet12")


@pytest.mark.parametrize(
    ("bottleneck", "groups", "stem"), [(False, 1, "cifar"), (True, 1, "imagenet"), (True, 2, "cifar")]
)
def test_the_halves_compose_and_shapes_follow(bottleneck, groups, stem):
    torch.manual_seed(0)
    network = ResNet((1, 2, 1), bottleneck, 1, width=4, inner=4, groups=groups, stem=stem).eval()
    x = torch.randn(2, 1, 32, 32)
    features = network(x)
    assert features.shape == (2, network.num_features) == (2, 64 if bottleneck else 16)
    hidden = network.before_last_block(x)
    assert torch.equal(network.from_last_block(hidden), features)
    assert hidden.shape[-1] == 32 // (2 if stem == "cifar" else 8)


def test_zero_branches_leave_the_subsampled_input_of_a_wide_network():
    """With zero second convolutions and identity shortcuts only, a group of stride 1 is the identity."""
    network = WideResNet(2, 1, 1, width=4, bias=False).double().eval()
    for name, p in network.named_parameters():
        if name.endswith("conv2.weight"):
            torch.nn.init.zeros_(p)
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    stem = F.conv2d(x, network.conv1.weight, padding=1)
    assert torch.equal(network.layer1(stem), stem)
    step = network.layer2[0].downsample[0].weight
    assert torch.allclose(network.layer2(stem), F.conv2d(stem, step, stride=2), rtol=1e-12)


@pytest.mark.parametrize("in_planes", [16, 32])
def test_zeros_at_the_end_come_after_the_channels(in_planes):
    network = CifarResNet(8, 1, shortcut="end").eval()
    block = (network.layer2 if in_planes == 16 else network.layer3)[0]
    torch.nn.init.zeros_(block.bn2.weight)
    x = torch.rand(2, in_planes, 6, 6)
    out = block(x)
    assert torch.equal(out[:, :in_planes], x[:, :, ::2, ::2])
    assert out[:, in_planes:].count_nonzero() == 0


def test_groups_of_unequal_length_and_other_widths():
    network = CifarResNet(30, width=16, blocks=(5, 5, 4))
    block = 2 * 64 * 64 * 9 + 4 * 64
    assert size(network) == size(CifarResNet(32)) - block
    assert CifarResNet(8, width=6).num_features == 24
    with pytest.raises(UserError, match="shortcut 'start'"):
        CifarResNet(8, shortcut="start")
