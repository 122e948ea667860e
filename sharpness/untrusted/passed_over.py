"""Placeholders for objects of unknown classes, of which nothing is imported, made or called.

Training scripts save a ``config`` of their own class, paths, parsed settings or the whole network beside the weights.
A :class:`PassedOver` takes the arguments, items and state that a pickle hands to such an object and drops them. Of a
network it keeps the tables of tensors, which are data: :meth:`PassedOver.tensors`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sharpness.untrusted.refused import REMEDY, Allowance, Refused

MODULES, DEEPEST = 2**16, 100
"""Most modules of a pickled network, and how deep they may be in each other."""

NAMES, EACH = 2**26, 64
"""Most characters of all names of a network's modules and tensors, and how many each counts beyond its own: a file
holds a long name once, and a network may repeat it at every level."""

ITEMS, VALUES, STATE = "items", "values", "state"


class PassedOver:
    """One class of these stands for each class that a file names.

    Attributes:
        name: full name of what it stands for.
        uses: what a rehearsal saw done to its objects: :data:`ITEMS` as of a dict, :data:`VALUES` as of a list,
            :data:`STATE`.
    """

    name = ""
    uses: set[str]
    modules: Mapping[str, Any] = MappingProxyType({})

    def __new__(cls, *given: Any) -> Any:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        self.uses.add(STATE)
        if type(state) is dict and {"_parameters", "_buffers", "_modules"} <= state.keys():
            self.modules = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.uses.add(ITEMS)

    def append(self, value: Any) -> None:
        self.uses.add(VALUES)

    def __repr__(self) -> str:
        return f"<{self.name}, passed over>"

    def tensors(self) -> OrderedDict[str, Any]:
        """Parameters and lasting buffers of a network by name, as its ``state_dict()`` has them; of others none.

        Raises:
            Refused: it holds itself, or far more modules or names than it is long.
        """
        found: OrderedDict[str, Any] = OrderedDict()
        allowance = Allowance(NAMES)
        left = [("", self, 0)]
        for _ in range(MODULES):
            if not left:
                return found
            prefix, module, depth = left.pop()
            if depth > DEEPEST:
                raise Refused(f"holds a network nested more than {DEEPEST} levels deep")
            passing = module.modules.get("_non_persistent_buffers_set")
            passing = passing if type(passing) is set else set()
            for table in ("_parameters", "_buffers"):
                for name, value in _table(module.modules.get(table)):
                    if value is not None and not (table == "_buffers" and name in passing):
                        allowance.take(len(prefix) + len(name) + EACH)
                        found[prefix + name] = value
            for name, inner in reversed(_table(module.modules.get("_modules"))):
                if isinstance(inner, PassedOver):
                    allowance.take(len(prefix) + len(name) + EACH)
                    left.append((f"{prefix}{name}.", inner, depth + 1))
        raise Refused("unfolds into far more modules than it holds")


class PickledNetwork(OrderedDict[str, Any]):
    """Tensors by name out of a pickled network, whose class has a ``name`` and was not made."""

    name = ""


class _Dict(PassedOver):
    """Stands for a class whose objects a pickle fills like a dict: they become one."""

    def __new__(cls, *given: Any) -> Any:
        return OrderedDict()


class _List(PassedOver):
    """Stands for a class whose objects a pickle fills like a list: they become one."""

    def __new__(cls, *given: Any) -> Any:
        return []


class Method(PassedOver):
    """Stands for ``getattr`` where a pickle makes a bound method of it: of an object that is passed over, too."""

    name = "builtins.getattr"

    def __new__(cls, *given: Any) -> Any:
        of = given[0] if len(given) == 2 and type(given[1]) is str else None
        if not isinstance(of, PassedOver) and not (isinstance(of, type) and issubclass(of, PassedOver)):
            raise Refused(f"needs {cls.name} (can reach any code), and nothing in it was run: {REMEDY}")
        return super().__new__(cls)


def rehearsed(name: str) -> type[PassedOver]:
    """The class that stands for ``name`` in a rehearsal, where nothing was seen of it yet."""
    return type("PassedOver", (Method if name == Method.name else PassedOver,), {"name": name, "uses": set()})


def loaded(seen: type[PassedOver]) -> type[PassedOver]:
    """The class that stands for the same in ``torch.load``, which fills plain dicts and lists alone.

    Raises:
        Refused: no plain container can take what the pickle does to it.
    """
    if issubclass(seen, Method):  # its object may have become a plain container
        return type("PassedOver", (PassedOver,), {"name": seen.name, "uses": set()})
    if seen.uses <= {STATE}:
        return seen
    if VALUES in seen.uses and len(seen.uses) > 1:
        raise Refused(f"fills a {seen.name} like a list and otherwise, which cannot be passed over")
    return type("PassedOver", (_List if VALUES in seen.uses else _Dict,), {"name": seen.name, "uses": set()})


def passed_over(content: Any) -> list[str]:
    """Entries of a file that hold placeholders, as text, by the keys of the outermost dict.

    >>> stand_in = rehearsed("parse_config.ConfigParser")
    >>> passed_over({"epoch": 3, "config": [stand_in()]})
    ['config (parse_config.ConfigParser)']
    """
    entries = content.items() if isinstance(content, dict) else [("all of it", content)]
    found = []
    for key, value in entries:
        names = list(dict.fromkeys(_names(value)))
        if names:
            more = ", ..." if len(names) > 2 else ""
            found.append(f"{key if isinstance(key, str) else type(key).__name__} ({', '.join(names[:2])}{more})")
    return found


def _names(content: Any) -> list[str]:
    """Names of all placeholders in nested values; each container is visited once."""
    names, left, seen = [], [content], set()
    while left:
        value = left.pop()
        if isinstance(value, PassedOver):
            names.append(value.name)
        elif isinstance(value, dict | list | tuple | set) and id(value) not in seen:
            seen.add(id(value))
            left += reversed([*value, *value.values()] if isinstance(value, dict) else list(value))
    return names


def _table(given: Any) -> list[tuple[str, Any]]:
    """Entries of one of a module's own dicts, if that is what it is."""
    if not isinstance(given, dict) or not all(type(name) is str for name in given):
        return []
    return list(given.items())
