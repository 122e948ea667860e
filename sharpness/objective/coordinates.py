"""Coordinates of parameter space in which derivatives are taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sharpness.errors import choose

if TYPE_CHECKING:
    from sharpness.objective.objective import Objective

COORDINATES = ("plain", "filter")


def filter_scales(objective: Objective) -> Tensor:
    """The norm of each parameter's filter, flat (k,): the unit of its filter coordinate.

    Biases, the parameters of BatchNorm and other vectors are one group each, whose norm is the unit of all its entries.
    A filter of zeros has unit 0, and nothing moves it.

    >>> from torch import nn
    >>> from sharpness import Objective
    >>> model = nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     _ = model.weight.copy_(torch.tensor([[3.0, 4.0], [0.0, 2.0]])), model.bias.copy_(torch.tensor([6.0, 8.0]))
    >>> filter_scales(Objective(model, (torch.eye(2), torch.tensor([0, 1])))).tolist()
    [5.0, 5.0, 2.0, 2.0, 10.0, 10.0]
    """
    pieces = []
    for name, p in zip(objective.names, objective.parameters, strict=True):
        weight = p.detach().double()
        axis = objective.filter_axes[name]
        if weight.ndim < 2:
            norms = weight.norm().expand_as(weight)
        else:
            others = tuple(a for a in range(weight.ndim) if a != axis)
            norms = weight.square().sum(dim=others, keepdim=True).sqrt().expand_as(weight)
        pieces.append(norms.reshape(-1))
    return torch.cat(pieces).to(objective.dtype)


def scales_of(objective: Objective, coordinates: str) -> Tensor | None:
    """The units of coordinates by their name, flat (k,); None of plain ones.

    Raises:
        UserError: an unknown name.
    """
    choose("coordinates", coordinates, COORDINATES)
    return filter_scales(objective) if coordinates == "filter" else None
