"""Frozen networks, which are consulted and never trained."""

from __future__ import annotations

import copy

from torch import Tensor, nn


def as_buffers(network: nn.Module) -> nn.Module:
    """Make buffers of all parameters of a network, in place."""
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, parameter.detach())
    return network


class Frozen(nn.Module):
    """A copy of a network whose weights are buffers and which stays in eval mode.

    No optimiser, gradient rule or BatchNorm update changes it, and the ``state_dict`` of the module that holds it keeps
    it for exact resume. Gradients with respect to its input flow.

    >>> frozen = Frozen(nn.Linear(2, 1)).train()
    >>> len(list(frozen.parameters())), frozen.network.training, sorted(frozen.state_dict())
    (0, False, ['network.bias', 'network.weight'])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = as_buffers(copy.deepcopy(network))
        self.eval()

    def train(self, mode: bool = True) -> Frozen:
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)
