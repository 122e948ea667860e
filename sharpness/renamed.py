"""Old names of arguments and attributes, which work for one more version and warn with the new name."""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable
from typing import Any, TypeVar, cast

from sharpness.errors import UserError

F = TypeVar("F", bound=Callable[..., Any])


def warn_renamed(old: str, new: str) -> None:
    """Warn that an old name was used, at the line of the caller's caller."""
    # FutureWarning, because Python hides a DeprecationWarning if the call comes from another module.
    # Level 3: this function, the wrapper or property, the call.
    warnings.warn(f"{old} is now {new}: the old name goes with the next version", FutureWarning, stacklevel=3)


def renamed_arguments(**new_names: str) -> Callable[[F], F]:
    """Decorate a function or class so that it accepts keyword arguments by their old names as well.

    Args:
        new_names: the new name of every old name.

    Raises:
        UserError: the decorated function was called with both names of an argument.

    >>> import warnings
    >>> @renamed_arguments(runs="draws")
    ... def mean(draws=1):
    ...     return draws
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     mean(runs=3)
    3
    >>> str(caught[0].message)
    'mean(runs=) is now mean(draws=): the old name goes with the next version'
    """

    def decorate(function: F, name: str = "") -> F:
        if isinstance(function, type):
            function.__init__ = decorate(function.__init__, function.__name__)  # type: ignore[misc]
            return function
        name = name or function.__name__

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            for old in new_names.keys() & kwargs.keys():
                new = new_names[old]
                if new in kwargs:
                    raise UserError(f"{name}({new}=, {old}=): both name the same argument, give {new}= alone")
                warn_renamed(f"{name}({old}=)", f"{name}({new}=)")
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return cast(F, wrapped)

    return decorate


def renamed_names(module: str, **new_names: tuple[str, Callable[[], Any]]) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for a module that resolves old names in it.

    Args:
        module: name of the module.
        new_names: for every old name, the new name and a function that returns the object.
    """

    def read(name: str) -> Any:
        if name not in new_names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        new, make = new_names[name]
        warn_renamed(f"{module}.{name}", new)
        return make()

    return read


def moved_names(room: str, **files: str) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for a package that resolves names which have moved to its modules.

    Args:
        room: name of the package.
        files: for every module, the names in it, separated by spaces.

    >>> import warnings
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     moved_names("os", path="join split")("join") is __import__("os").path.join
    True
    >>> str(caught[0].message)
    'os.join is now os.path.join: the old name goes with the next version'
    """
    places = {name: f"{room}.{file}" for file, names in files.items() for name in names.split()}

    def read(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        warn_renamed(f"{room}.{name}", f"{places[name]}.{name}")
        return getattr(importlib.import_module(places[name]), name)

    return read


def renamed_attribute(old: str, new: str) -> Any:
    """Return a read-only property for the old name of an attribute.

    >>> import warnings
    >>> class Result:
    ...     draws = 5
    ...     runs = renamed_attribute("runs", "draws")
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     Result().runs
    5
    >>> str(caught[0].message)
    'Result.runs is now Result.draws: the old name goes with the next version'
    """

    def read(self: Any) -> Any:
        warn_renamed(f"{type(self).__name__}.{old}", f"{type(self).__name__}.{new}")
        return getattr(self, new)

    return property(read, doc=f"The old name of ``{new}``.")
