"""Optimizers of stages, and their saved states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from sharpness.methods import Stage
from sharpness.models import Classifier
from sharpness.training.believed import check_optimizer, check_tensors, damaged
from sharpness.training.state import RunState


def make_optimizer(stage: Stage, network: Classifier) -> torch.optim.SGD:
    """Build SGD with one parameter group for each factor of the learning rate."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, p in network.named_parameters():
        if p.requires_grad:
            factor = next((f for prefix, f in stage.lr_factors if name.startswith(prefix)), 1.0)
            groups.setdefault(factor, []).append(p)
    return torch.optim.SGD(
        [{"params": parameters, "factor": factor} for factor, parameters in groups.items()],
        lr=stage.lr, momentum=stage.momentum, weight_decay=stage.weight_decay, nesterov=stage.nesterov,
    )  # fmt: skip


def regrouped(saved: dict[str, Any], optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Any]:
    """Convert the saved state of an optimizer with one group per parameter, which earlier versions wrote."""
    if len(saved["param_groups"]) == len(optimizer.param_groups):
        return saved
    number = {p: i for i, p in enumerate(p for p in network.parameters() if p.requires_grad)}
    ordered = [number[p] for group in optimizer.param_groups for p in group["params"]]
    state = {new: saved["state"][old] for new, old in enumerate(ordered) if old in saved["state"]}
    return {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}


def put_back(state: RunState, network: nn.Module, optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Load the weights and the optimizer of a state that was read from ``path``.

    Raises:
        UserError: they do not match the network or the stage.
    """
    check_tensors(state.model, network.state_dict(), path, "model")
    network.load_state_dict(state.model)
    try:
        saved = regrouped(state.optimizer, optimizer, network)
    except (KeyError, TypeError, AttributeError, IndexError):
        raise damaged(path, "its optimizer does not fit this stage") from None
    ordered = [p for group in optimizer.param_groups for p in group["params"]]
    check_optimizer(saved, optimizer.state_dict(), ordered, path)
    optimizer.load_state_dict(saved)
