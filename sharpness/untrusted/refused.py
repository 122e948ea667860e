"""Refusals of files of unknown origin, and allowances for what they may make of themselves."""

from __future__ import annotations

REMEDY = "save the weights alone, torch.save(model.state_dict(), PATH), where you trust it"


class Refused(Exception):
    """The message completes ``cannot read FILE: it ...``; it holds names of types, never what was refused itself."""


class Allowance:
    """Values and bytes that a file may make of itself: a few bytes can ask for the same megabytes again and again.

    >>> allowance = Allowance(10)
    >>> allowance.take(8)
    >>> allowance.take(8)
    Traceback (most recent call last):
    sharpness.untrusted.refused.Refused: unfolds into far more than it holds
    """

    def __init__(self, left: int) -> None:
        self.left = left

    def take(self, count: int) -> None:
        """Spend ``count`` of what is left.

        Raises:
            Refused: less is left.
        """
        self.left -= count
        if self.left < 0:
            raise Refused("unfolds into far more than it holds")
