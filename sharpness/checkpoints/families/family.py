"""A family of checkpoints: how its files are recognised and read, and what it can."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sharpness.checkpoints.families.reading import Options, Reading


class Reader(Protocol):
    """Makes a model and its manifest of the content of a file."""

    def __call__(self, content: Any, path: str, options: Options) -> Reading:
        """Read what :func:`~sharpness.checkpoints.read_safely` found in the file at ``path``."""
        ...


@dataclass(frozen=True)
class Family:
    """Files that one code base writes.

    Attributes:
        name: by which ``load_checkpoint(family=...)`` knows it.
        matches: whether a file's content is of this family.
        read: makes a model of it.
        usual_files: names that its code gives to files, the best weights before the latest.
        weights: kinds of weights that a file may hold, by the names of ``load_checkpoint(weights=...)``.
        two_files: whether it saves some models in two files, of which ``stage2`` is the second.
        twin: finds the second file by the name of the first one.
    """

    name: str
    matches: Callable[[Any], bool]
    read: Reader
    usual_files: tuple[str, ...] = ()
    weights: tuple[str, ...] = ("model",)
    two_files: bool = False
    twin: Callable[[Path], Path | None] | None = None
