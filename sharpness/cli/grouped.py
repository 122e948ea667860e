"""Related options of a command as one argument."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields
from typing import Any

Command = Callable[..., Any]


def grouped(**groups: Any) -> Callable[[Command], Command]:
    """Pass the options that are fields of a dataclass to a command as one instance of it.

    Use it directly above the function, below the decorators that declare the options.

    Args:
        groups: the dataclass for every argument.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Span:
    ...     start: int
    ...     stop: int
    >>> @grouped(span=Span)
    ... def length(name: str, span: Span) -> str:
    ...     return f"{name}: {span.stop - span.start}"
    >>> length(name="a", start=1, stop=4)
    'a: 3'
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def called(*args: Any, **given: Any) -> Any:
            values = {
                name: kind(**{field.name: given.pop(field.name) for field in fields(kind)})
                for name, kind in groups.items()
            }
            return command(*args, **values, **given)

        return called

    return decorate
