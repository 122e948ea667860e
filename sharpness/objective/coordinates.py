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
    """Return the norm of each parameter's filter, flat (k,): the unit of its filter coordinate.

    A bias, a parameter of BatchNorm or any other vector is a single group; its norm is the unit of all its entries. A
    filter of zeros has unit 0 and cannot be moved.

    >>> from torch import nn
    >>> from sharpness import Objective
    >>> model = nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     _ = model.weight.copy_(torch.tensor([[3.0, 4.0], [0.0, 2.0]])), model.bias.copy_(torch.tensor([6.0, 8.0]))
    >>> filter_scales(Objective(model, (torch.eye(2), torch.tensor([0, 1])))).tolist()
    [5.0, 5.0, 2.0, 2.0, 10.0, 10.0]
    """
    weights = torch.cat([p.detach().reshape(-1).double() for p in objective.parameters])
    return block_sums(objective, weights.square(), "filter").sqrt().to(objective.dtype)


def block_sums(objective: Objective, flat: Tensor, blocks: str | None) -> Tensor:
    """Replace every entry of a flat vector by the sum over its block, (k,) to (k,).

    Args:
        blocks: ``"filter"`` (a parameter of one axis or without filters is one block), ``"layer"`` (whole parameters),
            or None for a single block.
    """
    if blocks is None:
        return flat.sum().expand_as(flat)
    pieces = []
    for name, p, piece in zip(objective.names, objective.parameters, flat.split(sizes_of(objective)), strict=True):
        axis = objective.filter_axes[name] if blocks == "filter" and p.ndim > 1 else None
        others = [a for a in range(p.ndim) if a != axis]
        pieces.append(piece.view(p.shape).sum(dim=others, keepdim=True).expand(p.shape).reshape(-1))
    return torch.cat(pieces)


def sizes_of(objective: Objective) -> list[int]:
    """Return the numbers of entries of the parameters in scope."""
    return [p.numel() for p in objective.parameters]


def scales_of(objective: Objective, coordinates: str) -> Tensor | None:
    """Return the units of the named coordinates, flat (k,); None for plain coordinates.

    Raises:
        UserError: an unknown name.
    """
    choose("coordinates", coordinates, COORDINATES)
    return filter_scales(objective) if coordinates == "filter" else None
