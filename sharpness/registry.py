"""Registries: things by name, of this package, of the user and of installed packages."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar, overload

from sharpness.errors import UserError
from sharpness.extensions import load_offered

T = TypeVar("T")

#: By group: the search path of the last look, and what it found.
_ENTRY_POINTS: dict[str, tuple[tuple[str, ...], dict[str, list[EntryPoint]]]] = {}


class Registry(MutableMapping[str, T], Generic[T]):
    """A mapping of names to things that can be added to: by :meth:`register`, and by installed packages.

    What comes with this package is declared as an installed package declares it, ``name: "module:object"``, and
    imported when it is asked for. Listing the names imports nothing. A package offers a thing as an entry point of
    ``group``::

        [options.entry_points]
        sharpness.methods =
            my-method = mypackage.method:recipe

    Args:
        kind: what the things are, for messages.
        group: of the entry points.
        built_in: label and place, ``"module:object"``, of what comes with this package, by name and in order.
        wanted: what a thing has to be, for messages.
        fits: whether an object is one.

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
        built_in: Mapping[str, tuple[str, str]] | None = None,
        *,
        wanted: str = "something to call",
        fits: Callable[[Any], bool] = callable,
    ) -> None:
        self.kind, self.group = kind, group
        self._wanted, self._fits = wanted, fits
        self._built_in = {name: place for name, (_, place) in (built_in or {}).items()}
        self._labels = {name: label for name, (label, _) in (built_in or {}).items()}
        self._things: dict[str, T] = {}

    @overload
    def register(self, name: str, thing: None = None, *, label: str | None = None) -> Callable[[T], T]: ...

    @overload
    def register(self, name: str, thing: T, *, label: str | None = None) -> T: ...

    def register(self, name: str, thing: T | None = None, *, label: str | None = None) -> Any:
        """Add a thing under a name; without a thing, a decorator. The same name again replaces what was registered.

        Args:
            name: as it is asked for in Python and on the command line.
            thing: what the name stands for.
            label: how figures and tables spell it; the name unless given.

        Returns:
            The thing.

        Raises:
            UserError: a name that this package has itself or that cannot be one, or a thing of another kind.
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
        """The label of a name in figures and tables; an unknown name itself."""
        if name not in self._labels and name in self:
            self[name]
        return self._labels.get(name, name)

    def choose(self, name: str) -> T:
        """The thing of a name.

        Raises:
            UserError: an unknown name, with those that there are; a package that offers it and cannot be imported.
        """
        if not isinstance(name, str) or name not in self:
            raise UserError(f"unknown {self.kind} {name!r}: choose one of {', '.join(self)}")
        return self[name]

    def added(self) -> list[str]:
        """Names that do not come with this package: registered ones, then those of installed packages."""
        return [name for name in self if name not in self._built_in]

    def __getitem__(self, name: str) -> T:
        if name not in self._things:
            if name in self._built_in:
                self._things[name] = EntryPoint(name, self._built_in[name], self.group).load()
            elif name in (offered := self._offered()):
                self._load(name, offered[name])
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
        return iter({**self._built_in, **self._things, **self._offered()})

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return name in self._built_in or name in self._things or name in self._offered()

    def _offered(self) -> dict[str, list[EntryPoint]]:
        """Entry points of installed packages by name, looked for again where the search path has changed."""
        path = tuple(sys.path)
        if _ENTRY_POINTS.get(self.group, ((), {}))[0] != path:
            found: dict[str, list[EntryPoint]] = {}
            for point in sorted(entry_points(group=self.group), key=lambda point: point.name):
                found.setdefault(point.name, []).append(point)
            _ENTRY_POINTS[self.group] = path, found
        return _ENTRY_POINTS[self.group][1]

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
