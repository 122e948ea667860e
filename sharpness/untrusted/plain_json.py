"""JSON of a bounded size, whose numbers and nesting are bounded too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sharpness.errors import shown
from sharpness.untrusted.refused import Refused
from sharpness.untrusted.regular_files import read_regular
from sharpness.untrusted.unfolding import as_plain

LIMIT = 16 * 2**20
"""Longest text that is read, in bytes."""

DIGITS = 20


def read_json(path: str | Path) -> Any:
    """The values of a JSON file.

    Raises:
        Refused: it cannot be opened, or holds what :func:`parse_json` refuses.
    """
    try:
        return parse_json(read_regular(path, LIMIT))
    except OSError as error:
        raise Refused(f"cannot be opened ({error.strerror})") from None


def parse_json(text: str | bytes, limit: int = LIMIT) -> Any:
    """The values of a JSON text of at most ``limit`` bytes.

    Raises:
        Refused: it is none, is too long or nested too deeply, holds a number of more than :data:`DIGITS` digits, or a
            key twice.

    >>> parse_json('{"a": [1, 2.5, null]}')
    {'a': [1, 2.5, None]}
    """
    if len(text) > limit:
        raise Refused(f"holds JSON of {len(text):,} bytes, and at most {limit:,} are read")
    try:
        return as_plain(json.loads(text, parse_int=_whole, object_pairs_hook=_once))
    except RecursionError:
        raise Refused("holds JSON that is nested too deeply") from None
    except ValueError:
        raise Refused("is no JSON") from None


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise Refused(f"holds an integer of {len(digits):,} digits")
    return int(digits)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dict, of which readers could otherwise see different values."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise Refused(f"holds the key {shown(repr(key), 60)} twice")
        found[key] = value
    return found
