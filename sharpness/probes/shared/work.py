"""Unfinished work in files, keyed by everything that it depends on."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sharpness.engine import distributed
from sharpness.errors import UserError
from sharpness.files import is_partial, write_arrays, write_atomically
from sharpness.results import Result, load_result
from sharpness.untrusted.plain_json import parse_json
from sharpness.untrusted.refused import Refused

#: Seconds between two writes of unfinished work.
INTERVAL = 5.0
#: Seconds of a write above which the interval grows in proportion, so that writing takes at most a twentieth of the
#: time: vectors may be gigabytes.
QUICK = 0.25
logger = logging.getLogger("sharpness")

Arrays = dict[str, Any]


def key_of(settings: Mapping[str, Any]) -> str:
    """Digest plain values to 16 hexadecimal digits.

    >>> key_of({"seed": 0, "k": 1}) == key_of({"k": 1, "seed": 0}) != key_of({"k": 1, "seed": 1})
    True
    """
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]


class WorkFolder:
    """A folder of unfinished work, with one subfolder per key, which is kept until the caller has the result.

    Every folder made by this class contains a marker file with its key. Folders without a marker belong to somebody
    else and are never touched.

    Attributes:
        used: subfolders of this work; other subfolders belong to other settings.
    """

    MARK = ".sharpness-work.json"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.used: list[Path] = []

    def of(self, key: str) -> Path:
        """Return the subfolder of a key, and create it if necessary.

        Raises:
            UserError: the folder cannot be created or read.
        """
        folder = self.path / key
        try:
            for made, named in ((self.path, ""), (folder, key)):
                if not made.exists():
                    made.mkdir(parents=True, exist_ok=True)
                    self._mark(made, named)
                elif self._is_half_marked(made) or (made == folder and not any(made.iterdir())):
                    self._mark(made, named)  # a process was killed before it could do so
        except OSError as error:
            raise UserError(f"resume={self.path}: {error.strerror}: give a folder to write to") from None
        if folder not in self.used:
            self.used.append(folder)
        return folder

    def clear(self) -> None:
        """Remove the used subfolders, and the whole folder if it was made here and contains nothing else."""
        for folder in self.used:
            if self._is_marked(folder, folder.name):
                shutil.rmtree(folder, ignore_errors=True)
        left = {entry.name for entry in self.path.iterdir()} if self.path.is_dir() else {"nothing"}
        if left == {self.MARK} and self._is_marked(self.path, ""):
            shutil.rmtree(self.path, ignore_errors=True)

    def tidy(self) -> None:
        """Remove the whole folder if nothing was saved in it, because a command was refused before it did any work."""
        kept = [entry for entry in self.path.rglob("*") if not entry.is_dir() and entry.name != self.MARK]
        if not kept and self._is_marked(self.path, ""):
            shutil.rmtree(self.path, ignore_errors=True)

    def _mark(self, folder: Path, key: str) -> None:
        write_atomically(folder / self.MARK, lambda partial: partial.write_text(json.dumps({"key": key})))

    def _is_half_marked(self, folder: Path) -> bool:
        """True if the folder only contains partly written markers of killed processes: it was made here."""
        names = [entry.name for entry in folder.iterdir()]
        return bool(names) and all(is_partial(name, self.MARK) for name in names)

    def _is_marked(self, folder: Path, key: str) -> bool:
        try:
            return not folder.is_symlink() and parse_json((folder / self.MARK).read_text()) == {"key": key}
        except (OSError, ValueError, Refused):
            return False


#: A folder of unfinished work, in any form that callers may give.
Resume = str | Path | WorkFolder | None


class Work:
    """Arrays by name in the subfolder of a key; with ``folder=None`` nothing is stored.

    Every process reads. Only the first process writes, except in :meth:`save_part`.

    Args:
        folder: folder that contains the subfolder of this work, or will contain it.
        settings: plain values that the arrays depend on; they determine the key.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for _ in range(2):
    ...         work = Work(folder, {"seed": 0})
    ...         found = {row: int(found["value"]) for row, found in work.rows([3, 5], lambda row: {"value": row**2})}
    ...     found, Work(folder, {"seed": 1}).load("row-0003")
    ({3: 9, 5: 25}, None)
    """

    def __init__(self, folder: Resume, settings: Mapping[str, Any]) -> None:
        if isinstance(folder, str | Path):
            folder = WorkFolder(folder)
        self.folder = None if folder is None else folder.of(key_of(settings))
        self._begun, self._took = time.monotonic(), 0.0
        self._written: dict[str, float] = {}

    @property
    def due(self) -> bool:
        """True if it is time to write unfinished work."""
        return self._due(max(self._written.values(), default=self._begun))

    def _due(self, written: float) -> bool:
        wait = INTERVAL * max(1.0, self._took / QUICK)
        return self.folder is not None and time.monotonic() - written >= wait

    def load(self, name: str) -> Arrays | None:
        """Read saved arrays; None if there are none, or if the file is damaged, with a warning."""
        if self.folder is None or not (path := self.folder / f"{name}.npz").is_file():
            return None
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                return dict(file)
        except Exception as error:  # damage is noticed, because zip files have checksums
            logger.warning("%s is damaged (%s): what was in it is computed again", path, type(error).__name__)
            return None

    def save(self, name: str, arrays: Mapping[str, Any]) -> None:
        """Write arrays atomically, in the first process."""
        if self.folder is not None and distributed.rank() == 0:
            self._write(name, arrays)

    def save_part(self, name: str, arrays: Mapping[str, Any]) -> None:
        """Write the arrays of this process."""
        if self.folder is not None:
            self._write(f"{name}-{distributed.rank()}", arrays)

    def parts(self, name: str) -> Iterator[Arrays]:
        """Read the parts that :meth:`save_part` wrote in earlier calls, with any number of processes."""
        for path in [] if self.folder is None else sorted(self.folder.glob(f"{name}-*.npz")):
            if (found := self.load(path.stem)) is not None:
                yield found

    def rows(self, rows: Iterable[int], compute: Callable[[int], Arrays]) -> Iterator[tuple[int, Arrays]]:
        """Read the arrays of every row, or compute and save them."""
        for row in rows:
            yield row, self.once(row, compute)

    def once(self, row: int, compute: Callable[[int], Arrays]) -> Arrays:
        """Read the arrays of a row, or compute and save them."""
        if (found := self.row(row)) is None:
            found = compute(row)
            self.save_row(row, found)
        return found

    def row(self, row: int) -> Arrays | None:
        """Read the arrays of a finished row; None if it is not finished."""
        return self.load(f"row-{row:04d}")

    def save_row(self, row: int, arrays: Arrays) -> None:
        """Write the arrays of a finished row, and remove those of the unfinished one."""
        self.save(f"row-{row:04d}", arrays)
        self._drop(f"unfinished-{row:04d}")

    def unfinished(self, row: int) -> Arrays | None:
        """Read the arrays of an interrupted row; None if there are none."""
        return self.load(f"unfinished-{row:04d}")

    def save_unfinished(self, row: int, arrays: Callable[[], Mapping[str, Any]]) -> None:
        """Write the arrays of an unfinished row if it is time to; each concurrent row has its own timer."""
        name = f"unfinished-{row:04d}"
        if self._due(self._written.get(name, self._begun)):
            self.save(name, arrays())

    def _write(self, name: str, arrays: Mapping[str, Any]) -> None:
        assert self.folder is not None
        start = time.monotonic()
        write_arrays(self.folder / f"{name}.npz", arrays)
        self._written[name] = time.monotonic()
        self._took = self._written[name] - start

    def _drop(self, name: str) -> None:
        if self.folder is not None and distributed.rank() == 0:
            (self.folder / f"{name}.npz").unlink(missing_ok=True)


def kept_result(path: Path | None, fits: Callable[[Any], bool], compute: Callable[[], Result]) -> Any:
    """Read a result from a file, or compute and save it.

    Args:
        path: path of the file; None saves nothing.
        fits: function that tells whether a result is the wanted one; a file with another result is overwritten.
        compute: function that computes the result.
    """
    if path is not None and path.is_file():
        try:
            if fits(found := load_result(path)):
                return found
            logger.info("%s holds another result, which is replaced", path)
        except UserError as error:
            logger.warning("%s: it is made again", error)
    result = compute()
    if path is not None and distributed.rank() == 0:
        result.save(path)
    return result
