"""Names that the pickle of a checkpoint may ask for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sharpness.errors import shown
from sharpness.untrusted.passed_over import Method, PassedOver, rehearsed
from sharpness.untrusted.plain_values import PLAIN_GLOBALS, ForeignDtype
from sharpness.untrusted.powers import may_be_passed_over, power
from sharpness.untrusted.refused import REMEDY, Refused
from sharpness.untrusted.tensors import stand_in

FOREIGN = 64
"""Most classes of others that are passed over in one file."""

CLAUSES = 160
"""Most characters of what a file asks for in the line that refuses it."""


class Names:
    """The globals that a pickle may name, and what each becomes in a rehearsal.

    Args:
        foreign: whether objects of classes that are not known here are passed over, rather than refused.
    """

    def __init__(self, foreign: bool = False) -> None:
        self.foreign = foreign
        self.plain = PLAIN_GLOBALS | ({"numpy.dtype": ForeignDtype} if foreign else {})
        self.passed: dict[str, type[PassedOver]] = {}

    def __getitem__(self, name: str) -> Any:
        found = self.passed.get(name) or (self.plain.get(name) or stand_in(name))
        foreign = self.foreign and (may_be_passed_over(name) or name == Method.name)
        if found is None and foreign and len(self.passed) < FOREIGN:
            found = self.passed[name] = rehearsed(name)
        if found is None:
            raise Refused(f"needs {shown(name)}, and nothing in it was run: {REMEDY}")
        return found

    def require(self, names: Iterator[str]) -> None:
        """Raise :class:`Refused` with the first few names that no checkpoint needs."""
        unknown = []
        for name in dict.fromkeys(names):
            try:
                self[name]
            except Refused:
                unknown.append(name)
        if unknown:
            clauses = [f"{shown(name, 60)} ({power(name)})" for name in unknown[:4]]
            while len(clauses) > 1 and sum(map(len, clauses)) > CLAUSES:
                clauses.pop()
            more = f" and {len(unknown) - len(clauses)} more" if len(unknown) > len(clauses) else ""
            raise Refused(f"needs {', '.join(clauses)}{more}, and nothing in it was run: {REMEDY}")
