"""Measurements of studies, which are made if they are missing and reused if they exist."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sharpness.objective import Objective
from sharpness.probes import MEASURES
from sharpness.probes.measures.registry import versions_of
from sharpness.probes.shared.work import kept_result


def measured(probe: Callable[..., Any], objective: Objective, label: str, path: Path, **settings: Any) -> Any:
    """``probe(objective, **settings)``, kept in one NetCDF file.

    The file is reused if model, data and settings are those it was made with, and this version can read it.
    """
    wanted = {**objective.provenance(), "settings": repr(sorted(settings.items())), "label": label}
    wanted |= versions_of(MEASURES.choose(name) for name in settings.get("measures", ()))

    def made() -> Any:
        result = probe(objective, **settings)
        result.provenance.update(wanted)
        return result

    return kept_result(path, lambda found: all(found.provenance.get(k) == v for k, v in wanted.items()), made)
