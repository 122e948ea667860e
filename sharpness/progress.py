"""Progress on stderr, silent where nobody watches."""

from __future__ import annotations

import logging
import warnings
from typing import Any

from sharpness.errors import printable

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # without ipywidgets tqdm warns, and falls back to text
    from tqdm.auto import tqdm


__all__ = ["progress", "tqdm"]


def progress(total: int | None, what: str, unit: str, done: int = 0) -> Any:
    """A bar that counts from ``done`` to ``total`` (None: not known before).

    Hidden when stderr is no terminal, and where the logger ``sharpness`` says warnings alone.
    """
    quiet = logging.getLogger("sharpness").level > logging.INFO or None
    return tqdm(
        total=total, initial=done, desc=printable(what), unit=" " + unit, disable=quiet, leave=False, dynamic_ncols=True
    )
