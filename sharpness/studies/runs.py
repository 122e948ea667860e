"""Measurements that a study needs, made if they are missing and reused if they are there."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sharpness.errors import UserError
from sharpness.objective import Objective
from sharpness.probes import MEASURES
from sharpness.probes.measures.registry import versions_of
from sharpness.results import load_result

logger = logging.getLogger("sharpness")


def measured(probe: Callable[..., Any], objective: Objective, label: str, path: Path, **settings: Any) -> Any:
    """``probe(objective, **settings)``, kept in one NetCDF file.

    The file is reused if model, data and settings are those it was made with, and this version can read it.
    """
    wanted = {**objective.provenance(), "settings": repr(sorted(settings.items())), "label": label}
    wanted |= versions_of(MEASURES.choose(name) for name in settings.get("measures", ()))
    found = _readable(path)
    if found is not None and all(found.provenance.get(k) == v for k, v in wanted.items()):
        return found
    result = probe(objective, **settings)
    result.provenance.update(wanted)
    result.save(path)
    return result


def _readable(path: Path) -> Any:
    if not path.exists():
        return None
    try:
        return load_result(path)
    except UserError as error:
        logger.warning("%s: its model is probed again", error)
        return None
