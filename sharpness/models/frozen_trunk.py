"""Residual networks of which only the last block is trained, as on Places-LT (MiSLAS, GCL)."""

from __future__ import annotations

from typing import Any

from torch import nn

from sharpness.models.frozen import as_buffers
from sharpness.models.resnet import ResNet


class FrozenTrunk(ResNet):
    """A network of :data:`~sharpness.models.resnet.PLANS` whose weights before the last block are fixed.

    They are buffers under torchvision's names and stay in eval mode, so that no optimiser, gradient rule or BatchNorm
    changes them and a checkpoint holds them; the last block, ``layer4.2`` of ResNet-152, is reinitialised and trained.
    On Places-LT the trunk has the weights that were trained on ImageNet: ``sharpness.train(..., pretrained=FILE)``.

    Args:
        given: as :class:`~sharpness.models.ResNet` takes it.

    >>> network = FrozenTrunk((1, 2), False, width=4).train()
    >>> sorted({name.partition(".conv")[0] for name, _ in network.named_parameters() if "conv" in name})
    ['layer2.1']
    >>> network.bn1.training, network.last_block.bn1.training
    (False, True)
    """

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        for part in self.trunk:
            as_buffers(part)
        self.train()

    @property
    def trunk(self) -> list[nn.Module]:
        """The parts before the last block."""
        groups: list[nn.Module] = [self.group(number) for number in range(1, self.num_groups)]
        return [self.conv1, self.bn1, *groups, *list(self.group(self.num_groups))[:-1]]

    @property
    def fresh(self) -> str:
        """Prefix of the names of the trained parameters."""
        return f"layer{self.num_groups}.{len(self.group(self.num_groups)) - 1}."

    def train(self, mode: bool = True) -> FrozenTrunk:
        super().train(mode)
        for part in self.trunk:
            part.eval()
        return self
