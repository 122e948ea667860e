"""Errors that the user can correct."""

import logging
from collections.abc import Sequence
from difflib import get_close_matches
from numbers import Integral

#: Maximum number of choices that a message lists.
FEW = 60


class UserError(ValueError):
    """Invalid input; the message is one line that states what was wrong, its value, and what to do.

    The command line prints only the message and exits with code 2. Any other exception is a bug in this package. Text
    from files or names is escaped, so that it cannot control a terminal.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


class SystemRefusal(UserError):
    """An operation that the system refused: a full disk, a folder without write permission, a closed pipe.

    Unlike other user errors, it says nothing about the validity of the input.
    """


class LostProcess(UserError):
    """Another process of the same command has ended prematurely."""


class _Printable(logging.Filter):
    """Filter that escapes log messages, which may contain text from foreign files."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = printable(record.getMessage()), ()
        return True


logging.getLogger("sharpness").addFilter(_Printable())


def choose(kind: str, value: object, choices: Sequence[str | None]) -> None:
    """Raise a :class:`UserError` unless ``value`` is one of ``choices``; of many choices, it lists the closest.

    >>> choose("sampler", "instance", ["instance", "class_balanced"])
    """
    if value not in choices:
        names = list(map(str, choices))
        if len(names) > FEW:
            some = list(dict.fromkeys([*get_close_matches(str(value), names, 5), *names]))[:10]
            names = [*some[:-1], f"{some[-1]} or {len(names) - 10} others"]
        raise UserError(f"unknown {kind} {value!r}: choose one of {', '.join(names)}")


def require_whole(name: str, value: object, least: int = 0, why: str = "") -> None:
    """Raise a :class:`UserError` unless ``value`` is an integer of at least ``least``; ``why`` ends the message.

    >>> require_whole("steps", 3, least=1)
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise UserError(f"{name}={value!r}: give an integer, at least {least}{why}")


def shown(text: str, limit: int = 80) -> str:
    """Shorten and escape text of unknown origin for one line of a terminal.

    >>> shown("a\\nb\\x1b[2J")
    'a?b?[2J'
    """
    return printable(text[:limit])


def printable(text: str, kept: str = "") -> str:
    """Replace every non-printable character by a question mark, except those in ``kept``.

    These are control characters, escapes, and overrides of the writing direction.

    >>> printable("a\\nb\\u202e"), printable("a\\tb", kept="\\t")
    ('a?b?', 'a\\tb')
    """
    return text if text.isprintable() else "".join(c if c.isprintable() or c in kept else "?" for c in text)
