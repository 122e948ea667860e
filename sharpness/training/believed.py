"""Validation of the files of a run against the recipe, the network and each other.

Files with a checksum have been verified before. Files of earlier versions have no checksum.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import Tensor

from sharpness.checkpoints import load_checkpoint
from sharpness.errors import UserError
from sharpness.methods import Recipe
from sharpness.untrusted.regular_files import read_regular

if TYPE_CHECKING:
    from sharpness.training.state import RunState

#: Maximum size of a history file, in bytes.
HISTORY = 2**30
#: Required keys of a parameter group of an optimizer.
SETTINGS = {"params", "factor", "momentum", "weight_decay", "nesterov"}


def damaged(path: Path, why: str) -> UserError:
    """Return the error for a damaged file of a run, without which the run starts again."""
    return UserError(f"{path} is damaged: {why}: delete it, and the run starts again")


def check_progress(state: RunState, recipe: Recipe, path: Path) -> None:
    """Refuse a state that does not match the recipe, or whose history lacks a row for a completed epoch.

    Raises:
        UserError: the state does not match; the message names the part.
    """
    whole = all(type(number) is int and number >= 0 for number in (state.stage, state.epoch))
    if not whole or state.stage >= len(recipe.stages) or state.epoch > recipe.stages[state.stage].epochs:
        raise damaged(path, "it stands at no epoch of this run")
    stage = recipe.stages[state.stage]
    done = [(s.name, e) for s in recipe.stages[: state.stage] for e in range(min(1, s.epochs), s.epochs + 1)]
    done += [(stage.name, e) for e in range(min(1, stage.epochs), state.epoch + 1)]
    rows = state.history if isinstance(state.history, list) else []
    if [(r.get("stage"), r.get("epoch")) if isinstance(r, dict) else None for r in rows] != done or not done:
        raise damaged(path, "its history does not fit the epoch at which it stands")
    plain = all(type(k) is str and type(v) in (int, float, str) for row in rows for k, v in row.items())
    if not plain or any(row.keys() != rows[0].keys() for row in rows):
        raise damaged(path, "its history is no table")
    averaging = stage.averaging
    averaged = averaging is not None and any(averaging.averages(e, stage.epochs) for e in range(1, state.epoch + 1))
    for name, wanted in (("model", True), ("optimizer", stage.epochs > 0), ("average", averaged)):
        value = getattr(state, name)
        if not isinstance(value, dict) or bool(value) != wanted:
            raise damaged(path, f"its {name} does not fit the epoch at which it stands")


def check_tensors(saved: Mapping[str, Any], own: Mapping[str, Tensor], path: Path, what: str) -> None:
    """Refuse weights whose names, shapes or types differ from those of the network.

    Raises:
        UserError: a weight differs; the message names the first one.
    """
    for name in [*own, *saved]:
        a, b = saved.get(name), own.get(name)
        if not isinstance(a, Tensor) or b is None or (a.shape, a.dtype, a.layout) != (b.shape, b.dtype, b.layout):
            raise damaged(path, f"its {what} does not fit the network at {name!r}")


def check_optimizer(saved: Mapping[str, Any], own: Mapping[str, Any], parameters: list[Tensor], path: Path) -> None:
    """Refuse an optimizer state whose groups, settings or buffers differ from those of this stage.

    Args:
        saved: state dict from the file.
        own: state dict of a new optimizer.
        parameters: parameters in the order in which the optimizer numbers them.
        path: path of the file, for messages.

    Raises:
        UserError: the state does not match.
    """
    misfit = damaged(path, "its optimizer does not fit this stage")
    groups, buffers = saved.get("param_groups"), saved.get("state")
    if not isinstance(groups, list) or not isinstance(buffers, dict) or len(groups) != len(own["param_groups"]):
        raise misfit
    for group, fresh in zip(groups, own["param_groups"], strict=True):
        if not isinstance(group, dict) or not group.keys() >= SETTINGS:
            raise misfit
        # The learning rate is set before every epoch. Keys that only one version of torch has are not compared.
        if any(
            type(group[k]) is not type(fresh[k]) or group[k] != fresh[k] for k in group.keys() & fresh.keys() - {"lr"}
        ):
            raise misfit
    if not buffers and any(group["momentum"] for group in groups):
        raise misfit
    for number, kept in buffers.items():
        if type(number) is not int or not 0 <= number < len(parameters) or not isinstance(kept, dict):
            raise misfit
        buffer, p = kept.get("momentum_buffer"), parameters[number]
        if buffer is not None and not (
            isinstance(buffer, Tensor) and (buffer.shape, buffer.dtype) == (p.shape, p.dtype)
        ):
            raise misfit


def check_finished(
    folder: Path, result: Path, identity: Mapping[str, Any], training: Mapping[str, Any]
) -> pd.DataFrame:
    """Check that the files of a finished run are complete, consistent and belong to this run; return its history.

    Args:
        folder: folder of the run.
        result: checkpoint of the run.
        identity: everything that distinguishes the run from others.
        training: settings of the training.

    Raises:
        UserError: a file is damaged or belongs to another run; the message names the file.
    """
    manifest = load_checkpoint(result).manifest
    wanted = {"method": identity["method"], "options": identity["options"], "longtail": identity["data"]}
    wanted |= {"data_sha256": identity["data_sha256"]}
    plain = manifest.to_dict()
    found = {name: plain.get(name) for name in wanted} | {"model": manifest.model.architecture}
    found |= {"training": {name: manifest.training.get(name) for name in training}}
    if _plain(found) != _plain({**wanted, "model": identity["model"], "training": dict(training)}):
        raise damaged(result, "it is of another run")
    table = folder / "history.csv"
    altered = UserError(f"{table} is damaged: it is not what this run wrote: delete {folder} to train again")
    try:
        content = read_regular(table, HISTORY)
        history = pd.read_csv(io.BytesIO(content))
    except Exception:
        # A damaged table can raise nearly any exception.
        raise altered from None
    if manifest.history_sha256 not in (None, hashlib.sha256(content).hexdigest()):
        raise altered
    rows = sum(max(1, epochs) for epochs in training["epochs"])
    if manifest.epoch not in (None, rows):
        raise damaged(result, f"it holds the weights after {manifest.epoch} epochs of {rows}")
    if len(history) != rows or not {"stage", "epoch", "lr", "loss", "accuracy"} <= set(history):
        raise altered
    last = history.iloc[-1]
    for name, share in manifest.accuracy.items():
        if name not in history or not _same_number(last[name], share):
            raise altered
    return history


def _same_number(read: Any, recorded: float) -> bool:
    """Compare a number read from a table with the recorded one; pandas before 3.1 may change the last digit."""
    if math.isnan(recorded):
        return bool(pd.isna(read))
    return isinstance(read, Real) and math.isclose(read, recorded, rel_tol=1e-12)


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))
