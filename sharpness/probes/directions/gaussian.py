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

import torch
from torch import Tensor

from sharpness.engine.scope import filter_axes
from sharpness.errors import UserError, choose, require_whole
from sharpness.objective import Objective
from sharpness.objective.coordinates import block_sums, sizes_of

NORMALIZATIONS = ("filter", "layer", None)
logger = logging.getLogger("sharpness")


def gaussian(
    objective: Objective,
    draw: int,
    seed: int = 0,
    normalization: str | None = "filter",
    orthogonal_to: Tensor | None = None,
) -> Tensor:
    """Draw direction number ``draw`` of ``seed``, flat (k,): standard normal, then normalised.

    The numbers of a parameter depend on seed, draw, its shape (filters first), and the number of parameters of that
    shape before it in the model. They do not depend on its name, layout, dtype or device, on the scope, or on the rest
    of the model. Everything is computed in float64 on the CPU and rounded once.

    Args:
        orthogonal_to: a direction (k,), to which this one is made orthogonal: within every filter, within every layer,
            or as a whole, depending on the normalisation.

    Raises:
        UserError: an unknown normalisation, or a seed that is not an integer of at least 0. If the normalisation leaves
            nothing to move, the direction is zero, with a warning.

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


def gaussian_pair(objective: Objective, seed: int = 0, normalization: str | None = "filter") -> tuple[Tensor, Tensor]:
    """Draw directions 0 and 1, orthogonal within every filter or layer or as a whole, depending on the normalisation.

    Raises:
        UserError: a single parameter, or arguments that :func:`gaussian` refuses.
    """
    first = gaussian(objective, 0, seed, normalization)
    return first, gaussian(objective, 1, seed, normalization, orthogonal_to=first)


def normalize(objective: Objective, direction: Tensor, normalization: str | None = "filter") -> Tensor:
    """Give a direction (k,) the norms of the model's filters or layers; None returns it unchanged.

    With ``"filter"`` and ``"layer"``, the entries of parameters whose filters have a single number become zero. Filters
    that are zero in the direction or in the model become zero as well.

    Raises:
        UserError: an unknown normalisation.
    """
    choose("normalization", normalization, NORMALIZATIONS)
    return _rounded(objective, _normalized(objective, direction.detach().cpu().double(), normalization))


def check_direction(objective: Objective, direction: Tensor) -> Tensor:
    """Convert a given direction to a flat (k,) tensor in the model's dtype.

    Raises:
        UserError: the direction is not a vector, has another length, or has entries that are not finite.
    """
    try:
        direction = torch.as_tensor(direction).to(objective.device, objective.dtype)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(
            f"a direction is a {type(direction).__name__}: give a flat vector of {objective.num_parameters} numbers; "
            "towards another model leads sharpness.interpolate(objective, model)"
        ) from None
    if direction.shape != (objective.num_parameters,):
        raise UserError(
            f"a direction has shape {tuple(direction.shape)}: this objective needs ({objective.num_parameters},)"
        )
    if not bool(torch.isfinite(direction).all()):
        raise UserError("a direction has entries that are not finite")
    return direction


def noise_keys(objective: Objective) -> dict[str, tuple[tuple[int, ...], int]]:
    """The keys of the noise of each parameter in scope, by name; with seed and draw, they determine its numbers.

    A key consists of the parameter's shape, filters first, and the number of parameters of that shape before it in the
    model.
    """
    axes = filter_axes(objective.model)
    seen: Counter[tuple[int, ...]] = Counter()
    keys = {}
    for name, p in objective.model.named_parameters():
        shape = tuple(p.movedim(axes.get(name, 0) or 0, 0).shape)
        keys[name] = shape, seen[shape]
        seen[shape] += 1
    return {name: keys[name] for name in objective.names}


def _noise(objective: Objective, draw: int, seed: int) -> Tensor:
    """Draw standard normal numbers (k,), in float64 on the CPU."""
    axes = filter_axes(objective.model)
    pieces = []
    for name, (shape, before) in noise_keys(objective).items():
        digest = hashlib.sha256(f"{seed}/{draw}/{shape}/{before}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        pieces.append(noise.movedim(0, axes.get(name, 0) or 0).reshape(-1))
    return torch.cat(pieces)


def _orthogonalized(objective: Objective, flat: Tensor, other: Tensor, normalization: str | None) -> Tensor:
    """``flat`` without its component along ``other``, block by block."""
    if normalization is None and len(flat) < 2:
        raise UserError("one parameter has no two orthogonal directions: take a line instead of a plane")
    squares = block_sums(objective, other.square(), normalization)
    return flat - torch.where(squares > 0, block_sums(objective, flat * other, normalization) / squares, 0.0) * other


def _normalized(objective: Objective, flat: Tensor, normalization: str | None) -> Tensor:
    if normalization is None:
        return flat
    axes = [objective.filter_axes[name] for name in objective.names]
    shapes = [p.shape for p in objective.parameters]
    moved = [axis is not None and len(s) > 0 and s.numel() > s[axis] for axis, s in zip(axes, shapes, strict=True)]
    if not any(moved):
        logger.warning(
            "normalization=%r keeps biases, BatchNorm and other vectors as they are, and parameters=%r are nothing "
            "else, so that nothing moves: take normalization=None",
            normalization,
            objective.scope,
        )
    weights = objective.flat_weights.cpu()
    norms, wanted = (block_sums(objective, v.square(), normalization).sqrt() for v in (flat, weights))
    moves = torch.tensor(moved).repeat_interleave(torch.tensor(sizes_of(objective)))
    return torch.where(moves & (norms > 0), flat * (wanted / norms), 0.0)


def _rounded(objective: Objective, flat: Tensor) -> Tensor:
    return flat.to(objective.dtype).to(objective.device)
