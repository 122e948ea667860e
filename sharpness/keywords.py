"""Keywords of typed options, as help() and notebooks show them."""

from __future__ import annotations

from inspect import Parameter


def keywords_of(options: type) -> list[Parameter]:
    """The keys of a ``TypedDict`` as keyword parameters with the default None, for the signature of ``**options``.

    A type checker reads them from ``Unpack[...]``; ``inspect.signature`` shows one parameter in their place.

    >>> from typing import TypedDict
    >>> class Options(TypedDict):
    ...     size: int
    >>> [(p.name, p.default) for p in keywords_of(Options)]
    [('size', None)]
    """
    hints = options.__annotations__.items()
    return [
        Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=getattr(hint, "__forward_arg__", hint))
        for name, hint in hints
    ]
