"""Typed groups of keywords for functions that take ``**options: Unpack[Group]``.

Type checkers read the keys from the group, a ``TypedDict``. This module adds defaults, and lists the keys in the
signature and docstring in place of ``**options``.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from inspect import Parameter
from typing import Any, TypeVar, cast, is_typeddict

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Default:
    """The default of a key, as in ``Annotated[bool, Default(False)]``; keys without one default to None."""

    value: Any


def keywords_of(group: Any, **defaults: Any) -> list[Parameter]:
    """Return the keys of a ``TypedDict`` as keyword parameters for a signature.

    Args:
        group: the ``TypedDict``; its own keys come before inherited ones.
        defaults: defaults that replace those of the group.

    >>> from typing import TypedDict
    >>> Options = TypedDict("Options", {"size": "int", "log": "Annotated[bool, Default(False)]"})
    >>> [(p.name, p.default) for p in keywords_of(Options, size=2)]
    [('size', 2), ('log', False)]
    """
    found = []
    own, modules = entries_of(group.__doc__, "Attributes"), list(_modules(group))

    def inherited(item: tuple[str, Any]) -> tuple[bool, int]:
        return item[0] not in own, modules.index(_module(item[1], group))

    for name, hint in sorted(group.__annotations__.items(), key=inherited):
        annotation, default = getattr(hint, "__forward_arg__", hint), None
        if parts := re.fullmatch(r"Annotated\[(.*), Default\((.*)\)\]", str(annotation), re.DOTALL):
            annotation, default = parts[1], eval(parts[2], vars(sys.modules[_module(hint, group)]))
        default = defaults.get(name, default)
        found.append(Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation))
    return found


def _module(hint: Any, group: Any) -> str:
    """Return the name of the module that defines a key; names in its type hint are resolved there."""
    return str(getattr(hint, "__forward_module__", None) or group.__module__)


def _modules(group: Any) -> dict[str, None]:
    # A TypedDict does not keep its bases in Python 3.11.
    inherited = [_module(hint, group) for hint in group.__annotations__.values()]
    return dict.fromkeys([group.__module__, *reversed(inherited)])


def entries_of(doc: str | None, section: str = "Args") -> dict[str, str]:
    """Return the entries of a section of a docstring by name, with their text.

    >>> entries_of("Draw.\\n\\nArgs:\\n    x: a number\\n        above 0.\\n    y: another.\\n")
    {'x': '    x: a number\\n        above 0.', 'y': '    y: another.'}
    """
    found = re.search(rf"^{section}:\n((?:    .*\n?)*)", inspect.cleandoc(doc or ""), re.MULTILINE)
    lines = re.split(r"^(?=    \w)", found[1], flags=re.MULTILINE)[1:] if found else []
    return {re.findall(r"\w+", text)[0]: text.rstrip() for text in lines}


def _documented(group: Any) -> dict[str, str]:
    """Return the documentation of the keys of a group by name, including inherited ones."""
    told: dict[str, str] = {}
    for module in reversed(_modules(group)):
        for one in vars(sys.modules[module]).values():
            if is_typeddict(one):
                told |= entries_of(one.__doc__, "Attributes")
    return told | entries_of(group.__doc__, "Attributes")


def typed_keywords(**defaults: Any) -> Callable[[F], F]:
    """Decorate a function that takes ``**options: Unpack[Group]`` with the keys of the group and their defaults.

    The signature and docstring list the keys in place of ``options``, and a misspelt key is a ``TypeError``. Keys
    without documentation stay in ``options``.

    Args:
        defaults: defaults that replace those of the group.

    >>> from typing import TypedDict, Unpack
    >>> Look = TypedDict("Look", {"title": "str | None", "log": "Annotated[bool, Default(False)]"})
    >>> @typed_keywords(title="Loss")
    ... def draw(x: int, **look: Unpack[Look]) -> str:
    ...     return f"{look}"
    >>> draw(3, log=True)
    "{'title': 'Loss', 'log': True}"
    """

    def decorate(function: F) -> F:
        # The annotation is read as text, not evaluated: some of its names may only exist for type checkers.
        own = inspect.signature(function)
        *parameters, options = own.parameters.values()
        (name,) = re.findall(r"(\w+)\]$", str(options.annotation))
        group = function.__globals__.get(name) or options.annotation.__args__[0]
        told, keys = _documented(group), keywords_of(group, **defaults)
        shown = [p for p in keys if p.name in told] if told else keys
        rest = [options] if len(shown) < len(keys) else []
        signature = own.replace(parameters=[*parameters, *shown, *rest])

        @functools.wraps(function)
        def called(*args: Any, **given: Any) -> Any:
            try:
                bound = signature.bind(*args, **given)
            except TypeError as error:
                raise TypeError(f"{function.__name__}(): {error}") from None
            bound.apply_defaults()
            return function(*bound.args, **bound.kwargs)

        called.__signature__ = signature  # type: ignore[attr-defined]
        entry = re.compile(rf"^( +){options.name}: .*(\n\1 +\S.*)*$", re.MULTILINE)
        lines = textwrap.dedent("\n".join(told[p.name] for p in shown if p.name in told))
        called.__doc__ = entry.sub(
            lambda found: "\n".join([textwrap.indent(lines, found[1]), *([found[0]] if rest else [])]),
            function.__doc__ or "",
        )
        return cast(F, called)

    return decorate
