"""Trained models and measurements that a study needs, made if they are missing and reused if they are there."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sharpness.checkpoints import Checkpoint, load_checkpoint
from sharpness.data import LongTailData
from sharpness.errors import UserError
from sharpness.methods import LABELS
from sharpness.objective import Objective
from sharpness.results import Comparison, load_result
from sharpness.training import train

logger = logging.getLogger("sharpness")


def trained(
    methods: Sequence[str], data: LongTailData, folder: Path, seed: int = 0, **options: Any
) -> dict[str, Checkpoint]:
    """Checkpoints by label, in the order of ``methods``; unfinished runs are resumed."""
    if len(set(methods)) < len(methods) or not methods:
        raise UserError(f"methods {','.join(methods)!r}: name at least one, and each only once")
    checkpoints = {}
    for method in methods:
        out = folder / f"{data.longtail.dataset}-{method}-seed{seed}"
        train(method, data, out, seed=seed, resume=True, **options)
        checkpoints[LABELS.get(method, method)] = load_checkpoint(out)
    return checkpoints


def measured(
    probe: Callable[..., Any], objectives: Mapping[str, Objective], folder: Path, name: str, **settings: Any
) -> Comparison:
    """``probe(objective, **settings)`` of every model, one NetCDF file each.

    A file is reused if model, data and settings are those it was made with, and this version can read it.
    """
    results: Comparison = Comparison()
    for label, objective in objectives.items():
        path = folder / f"{name}-{slug(label)}.nc"
        wanted = {**objective.provenance(), "settings": repr(sorted(settings.items())), "label": label}
        found = _readable(path)
        if found is not None and all(found.provenance.get(k) == v for k, v in wanted.items()):
            results[label] = found
            continue
        result = probe(objective, **settings)
        result.provenance.update(wanted)
        result.save(path)
        results[label] = result
    return results


def slug(label: str) -> str:
    """A label as part of a file name.

    >>> slug("Balanced Softmax+SAM:0.1")
    'balanced-softmax+sam-0.1'
    """
    return re.sub(r"[^\w.+=-]+", "-", label.lower()).strip("-")


def _readable(path: Path) -> Any:
    if not path.exists():
        return None
    try:
        return load_result(path)
    except UserError as error:
        logger.warning("%s: its model is probed again", error)
        return None
