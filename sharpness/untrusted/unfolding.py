"""Nested values with their stand-ins replaced, bounded in number and depth."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from sharpness.untrusted.passed_over import PassedOver, PickledNetwork
from sharpness.untrusted.plain_values import PlainArray, PlainNamespace
from sharpness.untrusted.refused import Refused

VALUES = 2**22
"""Most values that are read, a value counted as often as it is met: a few hundred bytes can hold 2^60 of them."""

DEPTH = 100
"""Deepest nesting that is read: what walks through values, or prints them, calls itself at every level."""


def as_plain(content: Any) -> Any:
    """The same containers with each :class:`PlainArray` and :class:`PlainNamespace` replaced by what it holds, and each
    network that was passed over by its tensors, a :class:`PickledNetwork`.

    Raises:
        Refused: there are more than :data:`VALUES` values, or they are nested deeper than :data:`DEPTH`.

    >>> pair = ["a", "b"]
    >>> as_plain({"twice": [pair, pair]})
    {'twice': [['a', 'b'], ['a', 'b']]}
    """
    return _Walk().plain(content, 0)[0]


class _Walk:
    """Objects that were met, by identity: their results, and the number of values that they unfold into."""

    def __init__(self) -> None:
        self.seen: dict[int, tuple[Any, int]] = {}
        self.networks: dict[int, PickledNetwork] = {}
        # Objects that are replaced must outlive the walk: a new object could otherwise get the identity of an old one.
        self.kept: list[Any] = []

    def plain(self, content: Any, depth: int) -> tuple[Any, int]:
        if isinstance(content, PlainArray):
            return content.value, 1
        if isinstance(content, PlainNamespace):
            content = content.value
        if isinstance(content, type) and issubclass(content, PassedOver):
            return object.__new__(content), 1
        if isinstance(content, PassedOver) and content.modules:
            content = self._network(content)
        if isinstance(content, str | bytes):
            return content, 1 + len(content) // 16
        if not isinstance(content, dict | list | tuple | set):
            return content, 1
        if id(content) in self.seen:
            return self.seen[id(content)]
        if depth >= DEPTH:
            raise Refused(f"is nested more than {DEPTH} levels deep, which no weights are")
        # What holds itself is counted once.
        self.kept.append(content)
        self.seen[id(content)] = content, 1
        result, count = self._inside(content, depth + 1)
        if count > VALUES:
            raise Refused("unfolds into far more than it holds")
        self.seen[id(content)] = result, count
        return result, count

    def _network(self, content: PassedOver) -> PickledNetwork:
        network = self.networks.get(id(content))
        if network is None:
            self.kept.append(content)
            network = self.networks[id(content)] = PickledNetwork(content.tensors())
            network.name = content.name
        return network

    def _inside(self, content: Any, depth: int) -> tuple[Any, int]:
        count = 1
        if isinstance(content, dict):
            if type(content) is OrderedDict and vars(content):
                count += self._metadata(content, depth)
            for key, value in content.items():
                content[key], more = self.plain(value, depth)
                count += more + (len(key) // 16 if isinstance(key, str | bytes | tuple) else 0)
            return content, count
        if isinstance(content, set):
            return content, count + len(content)
        values = [self.plain(value, depth) for value in content]
        count += sum(more for _, more in values)
        if isinstance(content, list):
            content[:] = [value for value, _ in values]
            return content, count
        # A torch.Size stays one.
        return tuple(value for value, _ in values) if type(content) is tuple else content, count

    def _metadata(self, content: Any, depth: int) -> int:
        """A state dict's own notes: versions of modules by name, which ``load_state_dict`` believes."""
        if "_metadata" not in vars(content):  # attributes of a dict of a class that was passed over
            vars(content).clear()
            return 0
        notes = vars(content).get("_metadata")
        if vars(content).keys() != {"_metadata"} or not isinstance(notes, dict):
            raise Refused("gives a dict other attributes than those of a state dict")
        if not all(isinstance(name, str) and isinstance(kept, dict) for name, kept in notes.items()):
            raise Refused("holds a state dict whose versions of modules are none")
        return self.plain(notes, depth)[1]
