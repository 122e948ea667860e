"""Weights saved during a run: its snapshots, and the update before or after one of its models."""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from sharpness.checkpoints import read_safely
from sharpness.errors import UserError
from sharpness.objective import Objective
from sharpness.probes.directions.between_models import toward

REMEDY = "train with --snapshots N (snapshots=N), or give update=, the last change of the weights"


def snapshots(run: str | Path) -> list[Path]:
    """The checkpoints that ``sharpness train --snapshots`` saved in a run's folder.

    Returns:
        Paths, in the order of their epochs.

    Raises:
        UserError: there are none.
    """
    folder = Path(run)
    kept = folder / "snapshots" if (folder / "snapshots").is_dir() else folder
    found = [p for p in kept.glob("*.pt") if p.name not in ("last.pt", "state.pt")]
    if not found:
        raise UserError(f"{folder} holds no snapshots: train with snapshots=N, or give the checkpoints in order")
    return sorted(found, key=lambda p: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", p.stem)])


def has_update(objective: Objective) -> bool:
    """True if the objective's model belongs to a run that has saved snapshots."""
    folder = _run_of(objective)
    return folder is not None and any((folder / "snapshots").glob("*.pt"))


def last_update(objective: Objective) -> Tensor:
    """The last update of the weights that led to an objective's model, flat (k,), from the snapshots of its run.

    This is the difference from the last snapshot before the model to the model itself. The first snapshot has none
    before it: for it, this is the difference to the next snapshot, or to the state of the unfinished run.

    Returns:
        The update, in the objective's parameters.

    Raises:
        UserError: the model was not read from a run's folder, the run has saved no other weights, or these belong to
            another network, such as weights before a stage with a new head.
    """
    folder = _run_of(objective)
    if folder is None or not has_update(objective):
        raise UserError(f"{objective.origin or 'the model'} has no snapshots of its run beside it: {REMEDY}")
    steps = snapshots(folder)
    at = Path(objective.origin or "").resolve()
    own = next((i for i, path in enumerate(steps) if path.resolve() == at), len(steps))
    for path in reversed(steps[:own]):
        if (move := toward(objective, path)).any():  # the last snapshot may be the result itself
            return -move
    for path in steps[own + 1 :]:
        if (move := toward(objective, path)).any():
            return move
    state = folder / "state.pt"
    if state.is_file() and (move := toward(objective, read_safely(state)["model"])).any():
        return move
    raise UserError(f"{folder} kept no weights other than those of {objective.origin}: {REMEDY}")


def _run_of(objective: Objective) -> Path | None:
    """The folder of the run whose result or snapshot the model was read from."""
    if objective.origin is None:
        return None
    folder = Path(objective.origin).resolve().parent
    return folder.parent if folder.name == "snapshots" else folder
