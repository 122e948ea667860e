"""Residual networks of depth 6n + 2 for small images (He et al. 2016, section 4.2), with option-A shortcuts."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.errors import UserError, choose
from sharpness.models.staged import Staged

SHORTCUTS = ("both", "end")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and an identity shortcut.

    Where the block halves the resolution, option A subsamples the input by 2 and pads its channels with zeros,
    half on each side (``planes // 4``), so that the shortcut has no parameters. With ``shortcut="end"`` all zeros
    come after the channels of the input, as in M2m's code: same weights, another function.
    """

    def __init__(self, in_planes: int, planes: int, stride: int, shortcut: str = "both") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        zeros = planes - in_planes
        self.pad = (zeros // 2, zeros - zeros // 2) if shortcut == "both" else (0, zeros)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.stride != 1 or self.pad[1]:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *self.pad))
        return F.relu(out + x)


class CifarResNet(Staged):
    """The feature extractor: images (n, in_channels, h, w) to features (n, 4 * width) of three groups, so (n, 64).

    A 3x3 convolution, three groups of n blocks with 16, 32 and 64 planes and strides 1, 2, 2, and global average
    pooling. ResNet-32 has 463,504 parameters without its head.

    Args:
        depth: 6n + 2.
        width: planes of the first group.
        blocks: of each group, instead of three times n: ``(5, 5, 4)`` is the network of CC-SAM's code.
        shortcut: position of the zeros, see ``BasicBlock``.
    """

    def __init__(
        self,
        depth: int,
        in_channels: int = 3,
        *,
        width: int = 16,
        blocks: Sequence[int] | None = None,
        shortcut: str = "both",
    ) -> None:
        super().__init__()
        choose("shortcut", shortcut, SHORTCUTS)
        if blocks is None and (depth < 8 or (depth - 2) % 6):
            raise UserError(f"depth {depth} is not 6n + 2: take 8, 14, 20, 32, 44, 56 or 110")
        counts = [(depth - 2) // 6] * 3 if blocks is None else list(blocks)
        self.num_groups = len(counts)
        self.num_features = width * 2 ** (self.num_groups - 1)
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        in_planes = width
        for group, count in enumerate(counts):
            planes, stride = width * 2**group, 2 if group else 1
            members = [BasicBlock(in_planes, planes, stride, shortcut)]
            members += [BasicBlock(planes, planes, 1) for _ in range(count - 1)]
            self.add_module(f"layer{group + 1}", nn.Sequential(*members))
            in_planes = planes
        # By fan-in, as in the code of Cao et al. 2019; torchvision's ResNets take the fan-out.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def stem_output(self, x: Tensor) -> Tensor:
        return F.relu(self.bn1(self.conv1(x)))
