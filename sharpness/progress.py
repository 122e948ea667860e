"""Progress bars on stderr, hidden if stderr is not a terminal."""

from __future__ import annotations

import logging
import warnings
from typing import Any

from sharpness.errors import printable

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # tqdm warns if ipywidgets is missing, and falls back to text
    from tqdm.auto import tqdm


__all__ = ["progress", "tqdm"]


def progress(total: int | None, what: str, unit: str, done: int = 0) -> Any:
    """Return a progress bar that counts from ``done`` to ``total`` (None if unknown).

    It is hidden if stderr is not a terminal, or if the level of the logger ``sharpness`` is above info.
    """
    quiet = logging.getLogger("sharpness").level > logging.INFO or None
    return tqdm(
        total=total, initial=done, desc=printable(what), unit=" " + unit, disable=quiet, leave=False, dynamic_ncols=True
    )
