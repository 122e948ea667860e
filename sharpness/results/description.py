"""Title, symbol, unit and scale of a measure, for tables and pictures."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any

from sharpness.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Description:
    r"""Title, symbol, unit and plot bounds of a measure.

    Attributes:
        title: in words, such as ``"Fisher-Rao norm"``.
        symbol: mathtext that axes show instead of the title, such as ``r"$\lambda_\mathrm{max}$"``.
        unit: unit of the numbers, shown in brackets after the symbol or title.
        lower_is_flatter: True if smaller values mean a flatter model, False if larger ones do, None if the measure says
            nothing about flatness, such as a loss.
        bounds: the smallest and the largest possible value; infinite if unbounded.
        symlog: whether values of both signs span orders of magnitude; axes are then logarithmic above two to three
            decades below the largest value.

    >>> Description(title="Norm", unit="1/step").label
    'Norm (1/step)'
    """

    title: str
    symbol: str = ""
    unit: str = ""
    lower_is_flatter: bool | None = None
    bounds: tuple[float, float] | None = None
    symlog: bool = False

    @classmethod
    def of(cls, name: str, known: dict[str, Any] | None = None) -> Description:
        """The description of a measure that a result holds, or one derived from the measure's name.

        >>> Description.of("worst_loss").label, Description.of("lambda_max").symlog
        ('Worst loss', True)
        """
        if known is not None:
            told = {f.name: known[f.name] for f in fields(Description) if f.name in known}
            bounds = told.get("bounds")
            return cls(**told | {"bounds": tuple(bounds) if isinstance(bounds, list) else bounds})
        end = re.fullmatch(r"lambda_(\w+)", name)
        return cls(
            title=name.replace("_", " ").capitalize(),
            symbol="" if end is None else rf"$\lambda_\mathrm{{{end[1]}}}$",
            bounds=(0, 1) if name.endswith("accuracy") else None,
            symlog=end is not None or name == "trace",
        )

    @property
    def label(self) -> str:
        """Text of an axis: symbol or title, and unit."""
        return (self.symbol or self.title) + (f" ({self.unit})" if self.unit else "")

    @property
    def plain(self) -> dict[str, Any]:
        """The description as plain values, for a file."""
        return {f.name: getattr(self, f.name) for f in fields(Description)}

    def check(self) -> None:
        """Refuse a description that cannot be drawn.

        Raises:
            UserError: texts that are not strings or not valid mathtext, bounds that are not two increasing numbers, or
                flags that are not booleans.
        """
        texts = (self.title, self.symbol, self.unit)
        if not all(isinstance(text, str) for text in texts) or not self.title.strip():
            raise UserError(
                f"title={self.title!r}, symbol={self.symbol!r}, unit={self.unit!r}: give texts, and at least a title"
            )
        if self.lower_is_flatter not in (True, False, None) or self.symlog not in (True, False):
            raise UserError(f"lower_is_flatter={self.lower_is_flatter!r}: give True, False or None")
        if self.bounds is not None:
            known = isinstance(self.bounds, tuple) and [type(b) in (int, float) for b in self.bounds] == [True, True]
            if not known or not self.bounds[0] < self.bounds[1]:
                raise UserError(f"bounds={self.bounds}: give the least and the largest value, such as (0, 1)")
        for text in texts:
            _require_drawable(text)


def _require_drawable(text: str) -> None:
    # Most symbols are those of eigenvalues, for which matplotlib need not be loaded.
    if text.count("$") - text.count(r"\$") < 2 or re.fullmatch(r"\$\\lambda_\\mathrm\{[a-z]+\}\$", text):
        return
    from matplotlib.mathtext import MathTextParser

    try:
        MathTextParser("path").parse(text)
    except ValueError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"{text!r} is not what matplotlib draws between $ and $ ({reason}): write words") from None
