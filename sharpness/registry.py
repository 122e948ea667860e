"""Registries of named objects from this package, the user and installed packages."""

from __future__ import annotations

import logging
import pickle
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping
from importlib.metadata import EntryPoint
from typing import Any, Generic, TypeVar, overload

from sharpness.errors import UserError, shown
from sharpness.extensions import imported, load_offered, offered

T = TypeVar("T")
logger = logging.getLogger("sharpness")

#: Every registry by its group.
ALL: dict[str, Registry[Any]] = {}


class Registry(MutableMapping[str, T], Generic[T]):
    """A mapping of names to objects, extended by :meth:`register` and by installed packages.

    Built-in objects are declared like entry points, ``name: "module:object"``, and imported on first use. Listing the
    names imports nothing. A package provides an object as an entry point of ``group``::

        [options.entry_points]
        sharpness.methods =
            my-method = mypackage.method:recipe

    Args:
        kind: name of the kind of objects, for messages.
        group: group of the entry points.
        built_in: built-in objects by name, in order: an import path, ``"module:object"``; a label and an import path;
            or the object itself.
        python: name of this registry in Python, for messages.
        option: command-line option that accepts an object by its import path, if there is one.
        wanted: description of a valid object, for messages.
        fits: function that returns True for a valid object.
        find: function that returns the object at an import path; by default
            :func:`~sharpness.extensions.imported`.

    >>> shapes = Registry("shape", "sharpness.shapes", {"fraction": ("Fraction", "fractions:Fraction")})
    >>> @shapes.register("half", label="One half")
    ... def half():
    ...     return shapes["fraction"](1, 2)
    >>> shapes["half"](), shapes.label("half"), list(shapes)
    (Fraction(1, 2), 'One half', ['fraction', 'half'])
    """

    def __init__(
        self,
        kind: str,
        group: str,
        built_in: Mapping[str, str | tuple[str, str] | T] | None = None,
        *,
        python: str = "",
        option: str | None = None,
        wanted: str = "something to call",
        fits: Callable[[Any], bool] = callable,
        find: Callable[[str], Any] | None = None,
    ) -> None:
        self.kind, self.group = kind, group
        self._python, self._option = python or group, option
        self._wanted, self._fits = wanted, fits
        self._find = find or (lambda place: imported(place, kind, "package.module:name"))
        self._built_in: dict[str, str | T] = {}
        self._labels: dict[str, str] = {}
        self._things: dict[str, T] = {}
        for name, built in (built_in or {}).items():
            self._labels[name], self._built_in[name] = built if isinstance(built, tuple) else (name, built)
        ALL[group] = self

    @overload
    def register(self, name: str, thing: None = None, *, label: str | None = None) -> Callable[[T], T]: ...

    @overload
    def register(self, name: str, thing: T, *, label: str | None = None) -> T: ...

    def register(self, name: str, thing: T | None = None, *, label: str | None = None) -> Any:
        """Register an object under a name, or return a decorator that does; the same name again replaces the object.

        Args:
            name: name in Python and on the command line.
            thing: the object.
            label: name in figures and tables; by default ``name``.

        Returns:
            The object.

        Raises:
            UserError: a name that is built in or invalid, or an object of another kind.
        """
        if not isinstance(name, str) or not name or set(name) & set(" ,:+=/\\") or not name.isprintable():
            raise UserError(f"{self.kind} {name!r}: give a name without spaces, commas, colons, slashes, + and =")
        if name in self._built_in:
            raise UserError(f"{self.kind} {name!r} comes with sharpness: register yours under another name")
        if thing is None:
            return lambda decorated: self.register(name, decorated, label=label)
        self[name] = self._checked(f"{self.kind} {name!r}", thing)
        self._labels[name] = label or self._own_label(name, thing)
        return thing

    def label(self, name: str) -> str:
        """Return the label of a name in figures and tables; an unknown name is its own label."""
        if name not in self._labels and name in self:
            self[name]
        return self._labels.get(name, name)

    def choose(self, name: str) -> T:
        """Return the object with a name or, if the registry has an option for it, at an import path.

        Raises:
            UserError: an unknown name (the message lists the known ones), or code that cannot be imported.
        """
        if self._option and isinstance(name, str) and ":" in name:
            return self.load(name)
        if not isinstance(name, str) or name not in self:
            place = " or write package.module:name of your own" if self._option else ""
            raise UserError(f"unknown {self.kind} {name!r}: choose one of {', '.join(self)}{place}")
        return self[name]

    def load(self, place: str) -> T:
        """Import and register the object at ``package.module:name``; files that record this path can then be used.

        Raises:
            UserError: there is no such object, or importing it raises.
        """
        if place not in self._things:
            self[place] = self._checked(f"{self.kind} {place}", self._find(place))
            self._labels[place] = self._own_label(place, self[place])
        return self[place]

    def admit(self, thing: T) -> str:
        """Register an object that the user passes directly, and return its name in the registry.

        Raises:
            UserError: an object of another kind.
        """
        named = getattr(thing, "func", thing)  # a partial has no name of its own
        name = f"{getattr(named, '__module__', '')}:{getattr(named, '__qualname__', type(named).__name__)}"
        self[name] = self._checked(f"{self.kind} {getattr(named, '__qualname__', type(named).__name__)}", thing)
        return name

    def recorded(self, name: str, place: str | None, path: str) -> str:
        """Return the name in this registry of an object that a file names, without importing anything.

        Args:
            name: name in the file.
            place: import path in the file, if recorded.
            path: path of the file, for messages.

        Raises:
            UserError: the object is not registered here; the message says how to add it.
        """
        for known in (name, place):
            if known is not None and known in self:
                return known
        there = place or (name if ":" in name else None)
        remedy = f"install the package that offers it, or {self._python}.register({shown(name)!r}, ...) your own"
        if there and self._option:
            there = shown(there, 160)
            remedy = f"add {self._option} {there} if you trust it, in Python {self._python}.load({there!r})"
        raise UserError(f"{path} names the {self.kind} {shown(name, 160)!r}, which is not known here: {remedy}")

    def place(self, name: str) -> str | None:
        """Return the import path, ``"package.module:name"``, of an object from outside this package, else None."""
        if name in self._built_in:
            return None
        thing = self[name]
        module, qualified = getattr(thing, "__module__", None), getattr(thing, "__qualname__", "<")
        return None if "<" in qualified or module in (None, "__main__") else f"{module}:{qualified}"

    def added(self) -> list[str]:
        """Return the names that are not built in: registered ones, then those of installed packages."""
        return [name for name in self if name not in self._built_in]

    def working(self) -> Iterator[tuple[str, T]]:
        """Yield names and objects, starting with those that are not built in; skip those that cannot be imported."""
        for name in dict.fromkeys([*self.added(), *self]):
            try:
                yield name, self[name]
            except UserError as error:
                logger.warning("passed over: %s", error)

    def built_in(self) -> list[str]:
        """Return the built-in names."""
        return list(self._built_in)

    def __getitem__(self, name: str) -> T:
        if name not in self._things:
            if name in self._built_in:
                built = self._built_in[name]
                self._things[name] = EntryPoint(name, built, self.group).load() if isinstance(built, str) else built
            elif (points := offered(self.group).get(name)) or (points := self._offered_at(name)):
                self._load(name, points)
            else:
                raise KeyError(name)
        return self._things[name]

    def __setitem__(self, name: str, thing: T) -> None:
        self._things[name] = thing

    def __delitem__(self, name: str) -> None:
        del self._things[name]
        if name not in self._built_in:
            self._labels.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter({**self._built_in, **self._things, **offered(self.group)})

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return (
            name in self._built_in
            or name in self._things
            or name in offered(self.group)
            or bool(self._offered_at(name))
        )

    def _registered(self) -> dict[str, tuple[T, str]]:
        """Return objects and labels by name that are only registered in this process."""
        own = [name for name in self._things if name not in self._built_in and name not in offered(self.group)]
        return {name: (self._things[name], self.label(name)) for name in own}

    def _offered_at(self, place: object) -> list[EntryPoint]:
        return [point for points in offered(self.group).values() for point in points if point.value == place]

    def _load(self, name: str, points: list[EntryPoint]) -> None:
        packages = [point.dist.name if point.dist else point.module for point in points]
        if len({point.value for point in points}) > 1:
            raise UserError(f"{self.kind} {name!r} is offered by {' and by '.join(packages)}: uninstall one of them")
        thing = load_offered(points[0], self.kind)
        # The import may have registered the name itself, with a label.
        if name not in self._things:
            self[name] = self._checked(f"{self.kind} {name!r} of {packages[0]}", thing)
            self._labels[name] = self._own_label(name, thing)

    def _checked(self, what: str, thing: Any) -> T:
        if not self._fits(thing):
            raise UserError(f"{what}: a {type(thing).__name__} is not {self._wanted}")
        return thing

    @staticmethod
    def _own_label(name: str, thing: Any) -> str:
        label = getattr(thing, "label", None)
        return label if isinstance(label, str) else name


def registered(needed: Collection[str] = ()) -> dict[str, dict[str, tuple[Any, str]]]:
    """Return the objects registered in this process, by group and name, for worker processes.

    Args:
        needed: names that the workers need.

    Raises:
        UserError: a needed object cannot be sent to another process, because it was defined in a notebook or function.
    """
    interactive = getattr(sys.modules["__main__"], "__file__", None) is None
    found: dict[str, dict[str, tuple[Any, str]]] = {}
    for group, registry in ALL.items():
        for name, (thing, label) in registry._registered().items():
            try:
                # Search the bytes, because the object may contain another one, such as the function of a measure.
                alone = b"__main__" in pickle.dumps(thing) and interactive
            except Exception:  # pickling raises errors of many types
                alone = True
            if not alone:
                found.setdefault(group, {})[name] = thing, label
            elif name in needed:
                raise UserError(
                    f"{registry.kind} {name!r} is defined where other processes do not find it: move it to a module, "
                    "or do without other processes (jobs=1)"
                )
    return found


def take_over(found: Mapping[str, Mapping[str, tuple[Any, str]]]) -> None:
    """Register the objects that another process has registered."""
    for group, things in found.items():
        for name, (thing, label) in things.items():
            ALL[group][name] = thing
            ALL[group]._labels[name] = label
