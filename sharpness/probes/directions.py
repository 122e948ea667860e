r"""Directions in parameter space: the same noise for every model of an architecture, normalised as stated.

Filter normalisation (Li et al., NeurIPS 2018): every output filter of the direction gets the norm of the model's
filter, :math:`d_f \leftarrow d_f \|w_f\| / \|d_f\|`; biases, BatchNorm and other vectors are zero. For a head
stored as (features, classes) the filters are its columns.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from sharpness.errors import UserError, choose
from sharpness.objective import Objective

NORMALIZATIONS = ("filter", "layer", None)
TINY = 1e-10


def gaussian(objective: Objective, draw: int, seed: int = 0, normalization: str | None = "filter") -> Tensor:
    """Direction number ``draw`` of ``seed``, flat (k,).

    The numbers of a parameter depend on seed, draw, its shape (filters first), and how many parameters of that shape
    stand before it in the model: not on its name, layout, dtype or device, nor on the rest of the model.
    """
    seen: Counter[tuple[int, ...]] = Counter()
    pieces = []
    for name, p in zip(objective.names, objective.parameters, strict=True):
        axis = objective.filter_axes[name]
        shape = tuple(p.movedim(axis, 0).shape)
        key = hashlib.sha256(f"{seed}/{draw}/{shape}/{seen[shape]}".encode()).digest()
        seen[shape] += 1
        generator = torch.Generator().manual_seed(int.from_bytes(key[:7], "big"))
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        pieces.append(noise.movedim(0, axis).reshape(-1))
    return normalize(objective, torch.cat(pieces).to(objective.device, objective.dtype), normalization)


def gaussian_pair(objective: Objective, seed: int = 0, normalization: str | None = "filter") -> tuple[Tensor, Tensor]:
    """Two directions that are orthogonal: within every filter, every layer, or as a whole, as they are normalised."""
    first = gaussian(objective, 0, seed, None)
    second = gaussian(objective, 1, seed, None)
    blocks_first, blocks_second = (_blocks(objective, d, normalization) for d in (first, second))
    for a, b in zip(blocks_first, blocks_second, strict=True):
        if a.shape[1] > 1:
            squares = a.square().sum(1, keepdim=True).clamp_min(TINY**2)
            b -= (a * b).sum(1, keepdim=True) / squares * a
    pair = (_assemble(objective, blocks, normalization) for blocks in (blocks_first, blocks_second))
    one, two = (normalize(objective, d, normalization) for d in pair)
    return one, two


def normalize(objective: Objective, direction: Tensor, normalization: str | None = "filter") -> Tensor:
    """A direction (k,) with the norms of the model's filters or layers, or as it is (None).

    With ``"filter"`` and ``"layer"`` the entries of parameters with fewer than two dimensions become zero.
    """
    choose("normalization", normalization, NORMALIZATIONS)
    if normalization is None:
        return direction
    weights = torch.cat([p.detach().reshape(-1) for p in objective.parameters])
    blocks = _blocks(objective, direction, normalization)
    scaled = [
        d * (w.norm(dim=1, keepdim=True) / (d.norm(dim=1, keepdim=True) + TINY))
        for d, w in zip(blocks, _blocks(objective, weights, normalization), strict=True)
    ]
    flat = _assemble(objective, scaled, normalization)
    kept = torch.cat([torch.full((p.numel(),), p.ndim > 1) for p in objective.parameters]).to(flat.device)
    return torch.where(kept, flat, torch.zeros_like(flat))


def check_direction(objective: Objective, direction: Tensor) -> Tensor:
    """A given direction as a flat (k,) tensor of the model's dtype.

    Raises:
        UserError: another length, or numbers that are not finite.
    """
    direction = torch.as_tensor(direction).to(objective.device, objective.dtype)
    if direction.shape != (objective.num_parameters,):
        raise UserError(
            f"a direction has shape {tuple(direction.shape)}: this objective needs ({objective.num_parameters},)"
        )
    if not bool(torch.isfinite(direction).all()):
        raise UserError("a direction has entries that are not finite")
    return direction


def _blocks(objective: Objective, flat: Tensor, normalization: str | None) -> list[Tensor]:
    """Copies of the parts of a flat vector that are normalised together, as the rows of 2-D arrays."""
    if normalization is None:
        return [flat.clone()[None]]
    blocks = []
    sizes = [p.numel() for p in objective.parameters]
    for name, p, piece in zip(objective.names, objective.parameters, flat.split(sizes), strict=True):
        if normalization == "layer":
            blocks.append(piece.clone()[None])
        else:
            filters = piece.view(p.shape).movedim(objective.filter_axes[name], 0)
            blocks.append(filters.reshape(p.shape[objective.filter_axes[name]] if p.ndim else 1, -1).clone())
    return blocks


def _assemble(objective: Objective, blocks: Sequence[Tensor], normalization: str | None) -> Tensor:
    """The inverse of :func:`_blocks`."""
    if normalization is None:
        return blocks[0][0]
    pieces = []
    for name, p, block in zip(objective.names, objective.parameters, blocks, strict=True):
        if normalization == "filter" and p.ndim:
            axis = objective.filter_axes[name]
            block = block.view(p.movedim(axis, 0).shape).movedim(0, axis)
        pieces.append(block.reshape(-1))
    return torch.cat(pieces)
