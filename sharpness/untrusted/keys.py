"""Checks of the keys of dicts and sets in a pickle, whose hashes may take exponential time.

The hash of a tuple is computed again each time from those of its parts: a few hundred bytes can describe a tuple that
holds another one twice, which holds another one twice, and so on, whose hash takes exponential time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from sharpness.untrusted.refused import Refused


def check_key(key: Any) -> None:
    """Refuse a key that is a tuple of tuples.

    Raises:
        Refused: a tuple of tuples.
    """
    if type(key) is tuple and any(type(part) is tuple for part in key):
        raise Refused("uses tuples of tuples as keys")


def with_keys(kind: Callable[..., Any], key: Callable[[Any], Any] = lambda item: item) -> Callable[..., Any]:
    """A container of ``kind`` that checks what it hashes of each item, ``key(item)``.

    >>> with_keys(set)([(1, 2), 3]) == {(1, 2), 3}
    True
    """

    def make(items: Iterable[Any] = ()) -> Any:
        for item in items:
            check_key(key(item))
        return kind(items)

    return make
