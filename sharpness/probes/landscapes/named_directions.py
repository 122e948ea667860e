"""Directions by name: Gaussian, gradient or eigenvectors, alone or combined with given vectors."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sharpness.errors import UserError, choose, require_whole
from sharpness.objective import Objective
from sharpness.probes.curvature.eigenvalues import eigenvalues
from sharpness.probes.directions.direction_set import Directions
from sharpness.probes.directions.gaussian import NORMALIZATIONS, check_direction, gaussian

#: Fraction of a vector's length that must remain after projecting out another direction.
INDEPENDENT = 1e-4
logger = logging.getLogger("sharpness")


def gradient_direction(objective: Objective, number: int = 1, seed: int = 0) -> list[Tensor]:
    """The direction ``g / |g|``, along which the loss rises fastest.

    Raises:
        UserError: more than one direction was requested, or the gradient is zero.
    """
    if number > 1:
        raise UserError("there is one gradient: mix it, such as directions=('gradient', 'hessian')")
    # At recalibrated statistics, if points are evaluated at these.
    with objective.at(torch.zeros(objective.num_parameters)):
        gradient = objective.gradient()
    length = float(gradient.norm())
    if length == 0:
        raise UserError("the gradient is zero here: it has no direction")
    return [gradient / length]


def hessian_directions(objective: Objective, number: int = 1, seed: int = 0) -> list[Tensor]:
    """Unit eigenvectors of the algebraically largest eigenvalues, with a positive largest entry."""
    found = eigenvalues(objective, k=number, seed=seed, keep_vectors=True)
    assert found.vectors is not None
    if not found.converged.all():
        residual = float(found.residuals.max())
        logger.warning("hessian directions: not converged, the largest residual norm is %.2g", residual)
    vectors = [torch.as_tensor(v).to(objective.device, objective.dtype) for v in found.vectors]
    return [v * v[v.abs().argmax()].sign() for v in vectors]


#: Functions ``f(objective, number, seed)`` that return so many orthogonal unit vectors.
SUGGESTED: dict[str, Callable[[Objective, int, int], list[Tensor]]] = {
    "gradient": gradient_direction,
    "hessian": hessian_directions,
}


def named_directions(
    objective: Objective, spec: Any, number: int, seed: int = 0, normalization: str | None = "filter"
) -> Directions:
    """Make the directions of a line (``number`` 1) or of a plane (2).

    Args:
        spec: None or ``"gaussian"``; ``"gradient"``; ``"hessian"``, the top eigenvectors; a flat vector (k,) for a
            line; for a plane, two vectors or names, or two names joined by a plus, such as ``"gradient+hessian"``; or a
            :class:`Directions`, of which the first are used. Given vectors are used unchanged. Directions by name are
            made orthogonal to them and to directions by earlier names, and have unit length. Gaussian directions are
            made last and keep their normalisation.
        seed: seed of Gaussian directions, and of the start of the eigenvalue iteration.
        normalization: normalisation of Gaussian directions: ``"filter"``, ``"layer"`` or None.

    Raises:
        UserError: an unknown name, a wrong number or length of vectors, vectors that are zero or parallel, or a
            :class:`Directions` for other parameters.

    >>> from torch import nn
    >>> objective = Objective(nn.Linear(2, 2), (torch.eye(2), torch.tensor([0, 1])))
    >>> found = named_directions(objective, ("gradient", "gaussian"), 2)
    >>> found.name, abs(float(found.vectors[0] @ found.vectors[1])) < 1e-6
    ('gradient+gaussian', True)
    """
    choose("normalization", normalization, NORMALIZATIONS)
    require_whole("seed", seed)
    if isinstance(spec, Directions):
        fitted = spec.fit(objective, number)
        _require_span([v for v in fitted.vectors if spec.name == "given"])
        return fitted
    parts = _parts(spec, number)
    names = [p if isinstance(p, str) else "given" for p in parts]
    for part in parts:
        if isinstance(part, str) and part not in SUGGESTED and part != "gaussian":
            known = ", ".join(repr(n) for n in ("gaussian", *SUGGESTED))
            raise UserError(f"unknown directions {part!r}: choose {known}, or give vectors")
    found: dict[int, Tensor] = {i: check_direction(objective, p) for i, p in enumerate(parts) if names[i] == "given"}
    _require_span([found[i] for i in sorted(found)])
    suggested = {n: iter(SUGGESTED[n](objective, names.count(n), seed)) for n in dict.fromkeys(names) if n in SUGGESTED}
    for i, name in enumerate(names):
        if name in suggested:
            found[i] = _orthogonal(next(suggested[name]), list(found.values()), name)
    # Gaussian directions last, whatever their place: they can be made orthogonal to a vector within every filter and
    # keep their norm, whereas other directions would have to be changed.
    for i, name in enumerate(names):
        if name == "gaussian":
            other = next(iter(found.values()), None)
            found[i] = gaussian(objective, names[:i].count(name), seed, normalization, orthogonal_to=other)
    return Directions.of(
        objective,
        [found[i] for i in range(number)],
        "+".join(dict.fromkeys(names)),
        normalization=normalization if "gaussian" in names else None,
        seed=seed,
    )


def _parts(spec: Any, number: int) -> list[Any]:
    """List one name or vector for each direction."""
    if spec is None:
        spec = "gaussian"
    if isinstance(spec, str):
        parts: list[Any] = spec.split("+")
        parts = parts * number if len(parts) == 1 else parts
    else:
        parts = [spec] if number == 1 else ["gaussian" if part is None else part for part in spec]
    if len(parts) != number:
        raise UserError(
            f"{len(parts)} directions were given: a {'line needs one' if number == 1 else 'plane needs two'}"
        )
    return parts


def _require_span(given: list[Tensor]) -> None:
    """Refuse one vector or two that are zero or parallel."""
    wide = [v.detach().cpu().double() for v in given]
    if not all(bool(v.any()) for v in wide):
        raise UserError("a given direction is zero: nothing moves along it")
    units = [v / v.norm() for v in wide]
    if len(units) == 2 and float((units[1] - (units[0] @ units[1]) * units[0]).norm()) < INDEPENDENT:
        raise UserError("the given directions are parallel: a plane needs two that are not")


def _orthogonal(vector: Tensor, others: list[Tensor], name: str) -> Tensor:
    """Project out the components of a unit vector along others, and normalise it."""
    wide = vector.double() if vector.device.type != "mps" else vector
    left = wide / wide.norm()
    for other in others:
        axis = other.to(wide.dtype)
        left = left - (left @ axis) / (axis @ axis).clamp_min(torch.finfo(axis.dtype).tiny) * axis
    if float(left.norm()) < INDEPENDENT:
        raise UserError(f"the {name} direction is parallel to the other one: a plane needs two that are not")
    return (left / left.norm()).to(vector.dtype)
