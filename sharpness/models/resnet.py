"""Residual networks with the names of torchvision: ResNet and ResNeXt (He et al. 2016; Xie et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.errors import choose
from sharpness.models.staged import Staged

STEMS = ("imagenet", "cifar")


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3 and 1x1 (a bottleneck, which widens its output by 4), and a shortcut.

    The 3x3 convolution of a bottleneck carries the stride. Where shapes change, the shortcut is a 1x1 convolution
    with BatchNorm, named ``downsample``.
    """

    def __init__(self, in_planes: int, planes: int, stride: int, inner: int, groups: int, bottleneck: bool) -> None:
        super().__init__()
        out_planes = 4 * planes if bottleneck else planes
        if bottleneck:
            shapes = [(in_planes, inner, 1, 1, 1), (inner, inner, 3, stride, groups), (inner, out_planes, 1, 1, 1)]
        else:
            shapes = [(in_planes, planes, 3, stride, 1), (planes, planes, 3, 1, 1)]
        for i, (inputs, outputs, size, step, split) in enumerate(shapes, start=1):
            conv = nn.Conv2d(inputs, outputs, size, stride=step, padding=size // 2, groups=split, bias=False)
            self.add_module(f"conv{i}", conv)
            self.add_module(f"bn{i}", nn.BatchNorm2d(outputs))
        self.depth = len(shapes)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_planes != out_planes:
            conv = nn.Conv2d(in_planes, out_planes, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(out_planes))

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for i in range(1, self.depth + 1):
            out = self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(out))
            if i < self.depth:
                out = F.relu(out)
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet(Staged):
    """The feature extractor: images (n, in_channels, h, w) to features (n, d).

    Args:
        blocks: number in each group; the planes double and the resolution halves from group to group.
        bottleneck: the kind of block.
        width: planes of the first group; d is ``width * 2 ** (groups of blocks - 1)``, times 4 for bottlenecks.
        inner: channels of the first group's 3x3 convolutions in bottlenecks; ``width`` unless given.
        groups: of those convolutions (ResNeXt).
        stem: ``"imagenet"``, 7x7 with stride 2 and max-pooling, or ``"cifar"``, 3x3 and nothing else.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        bottleneck: bool,
        in_channels: int = 3,
        *,
        width: int = 64,
        inner: int | None = None,
        groups: int = 1,
        stem: str = "imagenet",
    ) -> None:
        super().__init__()
        choose("stem", stem, STEMS)
        size, stride, padding = (7, 2, 3) if stem == "imagenet" else (3, 1, 1)
        self.conv1 = nn.Conv2d(in_channels, width, size, stride=stride, padding=padding, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.stem = stem
        self.num_groups = len(blocks)
        # Names of modules are torchvision's, so that its checkpoints load by name.
        inner = width if inner is None else inner
        in_planes = width
        for group, count in enumerate(blocks):
            planes = width * 2**group
            members = []
            for i in range(count):
                stride = 2 if group and not i else 1
                members.append(ResidualBlock(in_planes, planes, stride, inner * 2**group, groups, bottleneck))
                in_planes = 4 * planes if bottleneck else planes
            self.add_module(f"layer{group + 1}", nn.Sequential(*members))
        self.num_features = in_planes
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stem_output(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return F.max_pool2d(x, 3, stride=2, padding=1) if self.stem == "imagenet" else x


#: Blocks, bottleneck, inner width and groups of the published networks, all of width 64.
PLANS: dict[str, tuple[tuple[int, ...], bool, int, int]] = {
    "resnet10": ((1, 1, 1, 1), False, 64, 1),
    "resnet18": ((2, 2, 2, 2), False, 64, 1),
    "resnet34": ((3, 4, 6, 3), False, 64, 1),
    "resnet50": ((3, 4, 6, 3), True, 64, 1),
    "resnet101": ((3, 4, 23, 3), True, 64, 1),
    "resnet152": ((3, 8, 36, 3), True, 64, 1),
    "resnext50": ((3, 4, 6, 3), True, 128, 32),
    "resnext101": ((3, 4, 23, 3), True, 128, 32),
    "resnext101-32x8d": ((3, 4, 23, 3), True, 256, 32),
    "resnext152": ((3, 8, 36, 3), True, 128, 32),
}


def build_resnet(name: str, in_channels: int = 3, stem: str = "imagenet", kind: type[ResNet] = ResNet) -> ResNet:
    """Build one of the networks of ``PLANS``, such as a :class:`~sharpness.models.FrozenTrunk`.

    >>> sum(p.numel() for p in build_resnet("resnet18").parameters())
    11176512
    """
    choose("network", name, list(PLANS))
    blocks, bottleneck, inner, groups = PLANS[name]
    return kind(blocks, bottleneck, in_channels, inner=inner, groups=groups, stem=stem)
