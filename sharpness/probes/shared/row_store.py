"""Rows that are done, and the one at work, in a folder keyed by everything that they depend on."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sharpness.curvature import LanczosState
from sharpness.engine import distributed
from sharpness.files import write_atomically

#: Seconds between two writes of an unfinished row: its vectors may be gigabytes.
INTERVAL = 60.0
logger = logging.getLogger("sharpness")


class RowStore:
    """Numbers of finished rows by index, as ``.npz`` files; with ``folder=None`` nothing is stored.

    Args:
        settings: plain values; a call with others never reads what this one wrote.
    """

    def __init__(self, folder: str | Path | None, settings: dict[str, Any]) -> None:
        key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = None if folder is None else Path(folder) / key

    def load(self, row: int) -> dict[str, np.ndarray] | None:
        """The numbers of a row that is done; None where the file is damaged, with a line about it."""
        path = self._path(row, "npz")
        if path is None or not path.is_file():
            return None
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                return dict(file)
        except Exception as error:
            logger.warning("%s is damaged (%s): its row is computed again", path, type(error).__name__)
            return None

    def save(self, row: int, numbers: dict[str, Any]) -> None:
        """Keep a row, and drop what was written while it was at work."""
        path, state = self._path(row, "npz"), self._path(row, "lanczos")
        if path is None or state is None or distributed.rank() != 0:
            return

        def write(partial: Path) -> None:
            with partial.open("wb") as file:
                np.savez(file, allow_pickle=False, **numbers)

        write_atomically(path, write)
        state.unlink(missing_ok=True)

    def lanczos_state(self, row: int, device: torch.device) -> LanczosState | None:
        """State of an interrupted row."""
        path = self._path(row, "lanczos")
        return LanczosState.load(path, device) if path is not None and path.is_file() else None

    def lanczos_checkpoint(self, row: int) -> Callable[[LanczosState], None] | None:
        """Writes the state of a row at work, now and then."""
        path = self._path(row, "lanczos")
        if path is None or distributed.rank() != 0:
            return None
        last = time.monotonic()

        def write(state: LanczosState) -> None:
            nonlocal last
            if time.monotonic() - last >= INTERVAL:
                state.save(path)
                last = time.monotonic()

        return write

    def _path(self, row: int, kind: str) -> Path | None:
        return None if self.folder is None else self.folder / f"row-{row:04d}.{kind}"
