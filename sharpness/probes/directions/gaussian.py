r"""Gaussian directions in parameter space: the same noise for every model of an architecture, normalised as stated.

Filter normalisation (Li et al., NeurIPS 2018): every output filter of the direction gets the norm of the model's
filter, :math:`d_f \leftarrow d_f \|w_f\| / \|d_f\|`. A filter is an output channel of a convolution, a row of a linear
layer, a column of a head stored as (features, classes). Biases, BatchNorm, and other parameters whose filters hold a
single number are zero.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from sharpness.engine.scope import filter_axes
from sharpness.errors import UserError, choose, require_whole
from sharpness.objective import Objective

NORMALIZATIONS = ("filter", "layer", None)
logger = logging.getLogger("sharpness")


def gaussian(
    objective: Objective,
    draw: int,
    seed: int = 0,
    normalization: str | None = "filter",
    orthogonal_to: Tensor | None = None,
) -> Tensor:
    """Direction number ``draw`` of ``seed``, flat (k,): standard normal, then normalised.

    The numbers of a parameter depend on seed, draw, its shape (filters first), and how many parameters of that shape
    stand before it in the model: not on its name, layout, dtype or device, nor on the scope, nor on the rest of the
    model. All is computed in float64 on the CPU and rounded once.

    Args:
        orthogonal_to: a direction (k,), to which this one is made orthogonal within every filter, every layer, or as a
            whole, as it is normalised.

    Raises:
        UserError: an unknown normalisation, or a seed that is no integer. A normalisation that leaves nothing to
            move gives zeros, and a warning.

    >>> from torch import nn
    >>> model = nn.Linear(3, 2, bias=False)
    >>> objective = Objective(model, (torch.eye(3), torch.tensor([0, 1, 1])))
    >>> direction = gaussian(objective, draw=0).view(2, 3)
    >>> torch.allclose(direction.norm(dim=1), model.weight.norm(dim=1))
    True
    """
    choose("normalization", normalization, NORMALIZATIONS)
    require_whole("seed", seed)
    flat = _noise(objective, draw, seed)
    if orthogonal_to is not None:
        flat = _orthogonalized(objective, flat, orthogonal_to.detach().cpu().double(), normalization)
    return _rounded(objective, _normalized(objective, flat, normalization))


def normalize(objective: Objective, direction: Tensor, normalization: str | None = "filter") -> Tensor:
    """A direction (k,) with the norms of the model's filters or layers, or as it is (None).

    With ``"filter"`` and ``"layer"`` the entries of parameters whose filters hold a single number become zero. A filter
    of the direction or of the model that is zero stays zero.

    Raises:
        UserError: an unknown normalisation.
    """
    choose("normalization", normalization, NORMALIZATIONS)
    return _rounded(objective, _normalized(objective, direction.detach().cpu().double(), normalization))


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


def noise_keys(objective: Objective) -> dict[str, tuple[tuple[int, ...], int]]:
    """The keys of the noise of each parameter in scope, by name: with seed and draw they determine its numbers.

    A key is the shape, filters first, and the number of parameters of that shape before it in the model.
    """
    axes = filter_axes(objective.model)
    seen: Counter[tuple[int, ...]] = Counter()
    keys = {}
    for name, p in objective.model.named_parameters():
        shape = tuple(p.movedim(axes.get(name, 0), 0).shape)
        keys[name] = shape, seen[shape]
        seen[shape] += 1
    return {name: keys[name] for name in objective.names}


def _noise(objective: Objective, draw: int, seed: int) -> Tensor:
    """Standard normal numbers (k,), in float64 on the CPU."""
    axes = filter_axes(objective.model)
    pieces = []
    for name, (shape, before) in noise_keys(objective).items():
        digest = hashlib.sha256(f"{seed}/{draw}/{shape}/{before}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        pieces.append(noise.movedim(0, axes.get(name, 0)).reshape(-1))
    return torch.cat(pieces)


def _orthogonalized(objective: Objective, flat: Tensor, other: Tensor, normalization: str | None) -> Tensor:
    """``flat`` without its component along ``other``, block by block."""
    blocks = []
    for b, a in zip(_blocks(objective, flat, normalization), _blocks(objective, other, normalization), strict=True):
        squares = a.square().sum(1, keepdim=True)
        along = torch.where(squares > 0, (a * b).sum(1, keepdim=True) / squares, 0.0)
        blocks.append(b - along * a)
    if normalization is None and blocks[0].shape[1] < 2:
        raise UserError("one parameter has no two orthogonal directions: take a line instead of a plane")
    return _assemble(objective, blocks, normalization)


def _normalized(objective: Objective, flat: Tensor, normalization: str | None) -> Tensor:
    if normalization is None:
        return flat
    moved = [p.numel() > filters for filters, p in zip(_filters(objective), objective.parameters, strict=True)]
    if not any(moved):
        logger.warning(
            "normalization=%r keeps biases, BatchNorm and other vectors as they are, and parameters=%r are nothing "
            "else, so that nothing moves: take normalization=None",
            normalization,
            objective.scope,
        )
    weights = torch.cat([p.detach().cpu().double().reshape(-1) for p in objective.parameters])
    scaled = []
    for d, w, moves in zip(
        _blocks(objective, flat, normalization), _blocks(objective, weights, normalization), moved, strict=True
    ):
        norms = d.norm(dim=1, keepdim=True)
        fitted = torch.where(norms > 0, d * (w.norm(dim=1, keepdim=True) / norms), 0.0)
        scaled.append(fitted if moves else torch.zeros_like(d))
    return _assemble(objective, scaled, normalization)


def _rounded(objective: Objective, flat: Tensor) -> Tensor:
    return flat.to(objective.dtype).to(objective.device)


def _filters(objective: Objective) -> list[int]:
    """The number of filters of every parameter; a scalar is one."""
    pairs = zip(objective.names, objective.parameters, strict=True)
    return [p.shape[objective.filter_axes[name]] if p.ndim else 1 for name, p in pairs]


def _blocks(objective: Objective, flat: Tensor, normalization: str | None) -> list[Tensor]:
    """The parts of a flat vector that are normalised together, as the rows of one 2-D array per parameter."""
    if normalization is None:
        return [flat[None]]
    sizes = [p.numel() for p in objective.parameters]
    pieces = flat.split(sizes)
    if normalization == "layer":
        return [piece[None] for piece in pieces]
    named = zip(objective.names, objective.parameters, pieces, _filters(objective), strict=True)
    return [
        piece.view(p.shape).movedim(objective.filter_axes[name], 0).reshape(filters, -1)
        for name, p, piece, filters in named
    ]


def _assemble(objective: Objective, blocks: Sequence[Tensor], normalization: str | None) -> Tensor:
    """The inverse of :func:`_blocks`."""
    if normalization != "filter":
        return torch.cat([block[0] for block in blocks])
    pieces = []
    for name, p, block in zip(objective.names, objective.parameters, blocks, strict=True):
        axis = objective.filter_axes[name]
        pieces.append(block.reshape(p.movedim(axis, 0).shape).movedim(0, axis).reshape(-1))
    return torch.cat(pieces)
