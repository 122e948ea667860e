"""Residual networks of depth 6n + 2 for small images (He et al. 2016, section 4.2), with option-A shortcuts."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.errors import UserError


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and an identity shortcut.

    Where the block halves the resolution, option A subsamples the input by 2 and pads its channels with zeros,
    ``planes // 4`` on each side, so that the shortcut has no parameters.
    """

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.pad = planes // 4 if stride != 1 or in_planes != planes else 0
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.pad:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(out + x)


class CifarResNet(nn.Module):
    """The feature extractor: images (n, in_channels, h, w) to features (n, 64).

    A 3x3 convolution, three groups of n blocks with 16, 32 and 64 planes and strides 1, 2, 2, and global average
    pooling. ResNet-32 has 463,504 parameters without its head.
    """

    num_features = 64

    def __init__(self, depth: int, in_channels: int = 3) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise UserError(f"depth {depth} is not 6n + 2: take 8, 14, 20, 32, 44, 56 or 110")
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        in_planes = 16
        for group, (planes, stride) in enumerate([(16, 1), (32, 2), (64, 2)], start=1):
            blocks = [BasicBlock(in_planes, planes, stride)]
            blocks += [BasicBlock(planes, planes, 1) for _ in range((depth - 2) // 6 - 1)]
            self.add_module(f"layer{group}", nn.Sequential(*blocks))
            in_planes = planes
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    @property
    def last_block(self) -> nn.Module:
        """The last residual block, the part that CC-SAM perturbs together with the head on request."""
        return self.get_submodule("layer3")[-1]  # type: ignore[index]

    def before_last_block(self, x: Tensor) -> Tensor:
        """Images (n, in_channels, h, w) to the input of :attr:`last_block`."""
        x = F.relu(self.bn1(self.conv1(x)))
        for group in ("layer1", "layer2", "layer3"):
            blocks = list(self.get_submodule(group))  # type: ignore[call-overload]
            for block in blocks[:-1] if group == "layer3" else blocks:
                x = block(x)
        return x

    def from_last_block(self, x: Tensor) -> Tensor:
        """The input of :attr:`last_block` to features (n, 64)."""
        return self.last_block(x).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.from_last_block(self.before_last_block(x))
