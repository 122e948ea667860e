"""Residual networks as a sequence of groups of blocks, between which they can be cut."""

from __future__ import annotations

from torch import Tensor, nn


class Staged(nn.Module):
    """A stem, groups of blocks named ``layer1``, ``layer2``, ..., and global average pooling.

    ``forward(x)`` is ``forward_from(forward_to(x, g), g)`` for every group g, and
    ``from_last_block(before_last_block(x))``, for methods that act on the activations in between.

    Attributes:
        num_groups: number of groups.
    """

    num_groups: int

    def stem_output(self, x: Tensor) -> Tensor:
        """Images (n, in_channels, h, w) to the input of the first block."""
        raise NotImplementedError

    def group(self, number: int) -> nn.Sequential:
        """The blocks of group 1, ..., ``num_groups``."""
        return self.get_submodule(f"layer{number}")  # type: ignore[return-value]

    def forward_to(self, x: Tensor, group: int) -> Tensor:
        """Images (n, in_channels, h, w) to the maps that leave a group."""
        x = self.stem_output(x)
        for number in range(1, group + 1):
            x = self.group(number)(x)
        return x

    def forward_from(self, x: Tensor, group: int) -> Tensor:
        """The maps that leave a group to features (n, d)."""
        for number in range(group + 1, self.num_groups + 1):
            x = self.group(number)(x)
        return x.mean(dim=(2, 3))

    @property
    def last_block(self) -> nn.Module:
        """The last residual block, the part that CC-SAM perturbs together with the head on request."""
        return self.group(self.num_groups)[-1]

    def before_last_block(self, x: Tensor) -> Tensor:
        """Images (n, in_channels, h, w) to the input of ``last_block``."""
        x = self.forward_to(x, self.num_groups - 1)
        for block in list(self.group(self.num_groups))[:-1]:
            x = block(x)
        return x

    def from_last_block(self, x: Tensor) -> Tensor:
        """The input of ``last_block`` to features (n, d)."""
        return self.last_block(x).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_from(self.stem_output(x), 0)
