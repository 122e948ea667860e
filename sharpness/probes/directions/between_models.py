"""Displacements of the parameters from one model to another of the same architecture."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sharpness.checkpoints import Checkpoint, load_checkpoint
from sharpness.engine.modules import batchnorms
from sharpness.errors import UserError
from sharpness.models import Classifier
from sharpness.objective import Objective
from sharpness.probes.directions.direction_set import parameter_shapes, require_shapes

#: A model, or an object that contains or names one; a state dict has weights only.
Weights = nn.Module | Checkpoint | Objective | Mapping[str, Tensor] | str | Path


def toward(objective: Objective, other: Weights) -> Tensor:
    """Compute ``w_other - w`` over the parameters in scope, flat (k,), in float64 and rounded once.

    Args:
        other: a model of the same architecture, a checkpoint or its path, an objective, or a state dict. Parameters
            are matched by name and shape. A file may belong to the objective's own network, whatever its architecture.

    Raises:
        UserError: the other model lacks a parameter in scope, or has it in another shape; the message names the first.

    >>> a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    >>> objective = Objective(a, (torch.eye(2), torch.tensor([0, 1])))
    >>> with objective.at(toward(objective, b)):
    ...     bool(a.weight.allclose(b.weight))
    True
    """
    state = state_of(read_subject(objective, other))
    _require_names(objective, state)
    pieces = [
        (state[n].detach().cpu().double() - p.detach().cpu().double()).reshape(-1)
        for n, p in zip(objective.names, objective.parameters, strict=True)
    ]
    return objective.in_own_coordinates(torch.cat(pieces)).to(objective.dtype).to(objective.device)


def require_reachable(objective: Objective, other: Weights) -> None:
    """Refuse another model that differs in more than the parameters in scope.

    Running statistics of BatchNorm do not move with the parameters. With ``batchnorm="recalibrate"`` they are estimated
    at every point and may differ.

    Raises:
        UserError: running statistics, parameters out of scope, buffers or logit scales differ; the message names the
            first.
    """
    other = read_subject(objective, other)
    ours, theirs = objective.model.state_dict(), state_of(other)
    # `tied` has all names of the parameters that move: a tied weight has several names in the state dict.
    statistics, moved = _statistics(objective.model), {id(p) for p in objective.parameters}
    tied = {n for n, p in objective.model.named_parameters(remove_duplicate=False) if id(p) in moved}
    for name, value in ours.items():
        if name in tied or name.endswith("num_batches_tracked"):
            continue
        if name in theirs and _equal(value, theirs[name]):
            continue
        if name not in statistics:
            raise UserError(
                f"the models differ in {name!r}, which is not among the parameters in scope "
                f"({objective.scope!r}): a line would not reach the other model; take parameters='all'"
            )
        if objective.batchnorm == "eval":
            raise UserError(
                f"the models differ in the BatchNorm statistics {name!r}, which a line does not move: take "
                "Objective(..., batchnorm='recalibrate'), which estimates them at every point"
            )
    model = _module_of(other)
    if model is not None:
        scales = _scales(model)
        for name, scale in _scales(objective.model).items():
            if scales.get(name, scale) != scale:
                raise UserError(
                    f"the models scale their logits by {scale:g} and {scales[name]:g} ({name!r}): a line would not "
                    "reach the other model"
                )


def state_of(subject: Any) -> Mapping[str, Tensor]:
    """Parameters and buffers by name.

    Raises:
        UserError: the subject has no weights.
    """
    model = _module_of(subject)
    if model is not None:
        return model.state_dict()
    if isinstance(subject, Mapping) and all(isinstance(v, Tensor) for v in subject.values()):
        return subject
    raise UserError(f"a {type(subject).__name__} has no weights: give a model, a checkpoint, an Objective or a path")


def read_subject(objective: Objective, subject: Weights) -> Any:
    """Read a path as a checkpoint, so that it is read only once; return everything else unchanged.

    The weights of a file are loaded into its recorded architecture, or else into a copy of the objective's network.

    Raises:
        UserError: the file fits neither.
    """
    if not isinstance(subject, str | Path):
        return subject
    here = isinstance(objective.model, Classifier)
    ways: list[dict[str, Any]] = [{}, {"model": lambda: copy.deepcopy(objective.model)}]
    refusals = []
    for options in ways if here else reversed(ways):
        try:
            found = load_checkpoint(subject, **options)
            _require_names(objective, found.model.state_dict())
            return found
        except UserError as error:
            refusals.append(error)
    raise refusals[0]


def _require_names(objective: Objective, state: Mapping[str, Tensor]) -> None:
    require_shapes(
        {name: tuple(state[name].shape) for name in objective.names if name in state},
        parameter_shapes(objective),
        "the other model is",
    )


def _module_of(subject: Weights) -> nn.Module | None:
    if isinstance(subject, Checkpoint | Objective):
        return subject.model
    return subject if isinstance(subject, nn.Module) else None


def _statistics(model: nn.Module) -> set[str]:
    """Names of all buffers of BatchNorm layers."""
    layers = {id(m) for m in batchnorms(model)}
    return {
        f"{prefix}.{name}".lstrip(".")
        for prefix, module in model.named_modules()
        if id(module) in layers
        for name, _ in module.named_buffers()
    }


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.detach().cpu().double(), b.detach().cpu().double())


def _scales(model: nn.Module) -> dict[str, float]:
    """Output scales of modules that are not parameters, by name."""
    named = ((name, getattr(module, "scale", None)) for name, module in model.named_modules())
    return {name: scale for name, scale in named if isinstance(scale, float)}
