"""Wide residual networks for small images (Zagoruyko, Komodakis 2016): BatchNorm, ReLU, then the convolution."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class WideBlock(nn.Module):
    """``x + conv2(relu(bn2(conv1(relu(bn1(x))))))``; the second convolution carries the stride.

    Where shapes change, the shortcut is a 1x1 convolution of x itself, named ``downsample.0``.
    """

    def __init__(self, in_planes: int, planes: int, stride: int, bias: bool) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = nn.Conv2d(in_planes, planes, 3, padding=1, bias=bias)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride=stride, padding=1, bias=bias)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_planes != planes:
            self.downsample = nn.Sequential(nn.Conv2d(in_planes, planes, 1, stride=stride, bias=bias))

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))
        return out + (x if self.downsample is None else self.downsample(x))


class WideResNet(nn.Module):
    """The feature extractor: images (n, in_channels, h, w) to features (n, 4 * width * factor).

    Args:
        blocks: in each of the three groups; the depth is 6 * blocks + 4.
        factor: the widening factor, 10 in WRN-28-10.
        width: planes of the first convolution.
        bias: of the convolutions, as in the code of SWA.
    """

    def __init__(self, blocks: int, factor: int, in_channels: int = 3, width: int = 16, bias: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=bias)
        in_planes = width
        for group in range(3):
            planes = width * factor * 2**group
            members = [
                WideBlock(planes if i else in_planes, planes, 2 if group and not i else 1, bias) for i in range(blocks)
            ]
            self.add_module(f"layer{group + 1}", nn.Sequential(*members))
            in_planes = planes
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.num_features = in_planes

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for group in (1, 2, 3):
            x = self.get_submodule(f"layer{group}")(x)
        return F.relu(self.bn1(x)).mean(dim=(2, 3))
