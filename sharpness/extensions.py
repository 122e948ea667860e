"""Code of other packages: objects named ``package.module:name``, and entry points of installed packages."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from sharpness.errors import UserError, shown

SHOWN = 4


@contextmanager
def importing_from_here() -> Iterator[None]:
    """Make modules in the current directory importable.

    The arguments of our command line are hidden meanwhile, so code that parses arguments on import gets its defaults.
    """
    here, arguments = str(Path.cwd()), sys.argv
    sys.path.insert(0, here)
    sys.argv = arguments[:1]
    try:
        yield
    finally:
        sys.argv = arguments
        sys.path.remove(here)


def imported(source: str, kind: str, example: str) -> Any:
    """Import the object named ``package.module:name``; dots after the colon access attributes of classes.

    Args:
        source: the name.
        kind: kind of object for messages, such as ``"model"``.
        example: an example of a name for messages.

    Raises:
        UserError: there is no such module or name, or importing it raises.

    >>> imported("math:pi", "number", "math:e")
    3.141592653589793
    """
    module, colon, path = source.partition(":")
    if not (colon and module and path):
        raise UserError(f"{kind} {source!r}: write it as {example}")
    if module.endswith(".py") or "/" in module:
        plain = module.removesuffix(".py").removeprefix("./").strip("/").replace("/", ".")
        raise UserError(f"{kind} {source}: name a module, {plain}:{path}, from the folder that it is found in")
    with importing_from_here():
        try:
            found: Any = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise UserError(f"{kind} {source}: importing {module} needs {error.name}: install it") from None
            raise UserError(f"{kind} {source}: no module {error.name} here or among the installed ones") from None
        except (Exception, SystemExit) as error:
            raise UserError(f"{kind} {source}: importing {module} raised {in_one_line(error)}") from None
    reached = module
    for part in path.split("."):
        if not hasattr(found, part):
            inside: dict[str, Any] = getattr(found, "__dict__", {})  # a number has none
            public = [n for n, v in inside.items() if callable(v) and not n.startswith("_")]
            own = [n for n in public if getattr(inside[n], "__module__", module) == module] or public
            raise UserError(f"{kind} {source}: {reached} has no {part!r}, it has {listed(own) or 'nothing to call'}")
        found, reached = getattr(found, part), f"{reached}.{part}"
    return found


def offered(group: str) -> dict[str, list[EntryPoint]]:
    """Return the entry points of a group, such as ``sharpness.measures``, by name, without loading them.

    They are searched again when the import path has changed.

    >>> offered("measures of nobody")
    {}
    """
    return _offered(group, tuple(sys.path))


@lru_cache(maxsize=32)
def _offered(group: str, path: tuple[str, ...]) -> dict[str, list[EntryPoint]]:
    found: dict[str, list[EntryPoint]] = {}
    for point in sorted(entry_points(group=group), key=lambda point: point.name):
        found.setdefault(point.name, []).append(point)
    return found


def load_offered(point: EntryPoint, kind: str) -> Any:
    """Load the object of an entry point.

    Raises:
        UserError: importing it raises.
    """
    try:
        return point.load()
    except (Exception, SystemExit) as error:
        whose = f" of {point.dist.name}" if point.dist is not None else ""
        told = f"importing {point.value} raised {in_one_line(error)}"
        raise UserError(f"{kind} {point.name!r}{whose}: {told}; mend or uninstall it") from None


def listed(names: Sequence[object]) -> str:
    """Return the first few names, and the number of the others."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(shown(str(name), 120) for name in names[:SHOWN]) + more


def in_one_line(error: BaseException) -> str:
    """Describe an exception of foreign code in one line: its type and the first line of its message."""
    if isinstance(error, SystemExit):
        return f"SystemExit {error.code}: put what runs as a program under if __name__ == '__main__'"
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {shown(lines[0], 160)}" if lines else type(error).__name__
