"""Tables of results: text with as many digits as errors allow, the long form, and means over trainings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from sharpness.renamed import warn_renamed
from sharpness.results.rounding import aligned, described
from sharpness.results.words import NEAR_ZERO, estimates, near_zero

#: The first columns of the table of every result, after those of a comparison.
KEYS = ("class", "group", "samples")
#: New names of columns of checks by their old ones.
OLD_CHECKS = {"row": "class", "error": "measured_se"}
#: Suffixes of columns of errors, for which no spread over trainings is computed.
OWN_ERRORS = ("_se", "_lower", "_upper", "residual", "_interpolation_error")

#: Spaces that align numbers.
PADDING = re.compile(r"^ +| {2,}| +$")


class Checks(pd.DataFrame):
    """The table of checks, whose columns also have their old names for one more version."""

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return Checks

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str) and key in OLD_CHECKS:
            warn_renamed(f'checks["{key}"]', f'checks["{OLD_CHECKS[key]}"]')
            key = OLD_CHECKS[key]
        return super().__getitem__(key)


def with_errors(frame: pd.DataFrame) -> pd.DataFrame:
    """Text for every number that is not an integer, with as many digits as its error allows, aligned.

    Errors are in columns ``<name>_lower`` and ``<name>_upper`` (the ends of an interval), ``<name>_se`` (a standard
    error) and ``<name>_sd`` (a standard deviation over trainings). The text is ``value [lower, upper]``, or ``value ±
    se`` without an interval, and in a table with spreads ``mean ± sd [lower, upper]`` or ``mean ± sd (se)``. A value
    ends at the decimal place of the first digit of its error, or of the second digit if the first is 1; one without an
    error has four digits. A ring follows a value within two standard errors of zero.

    >>> losses = {"loss": [0.5], "loss_se": [0.3], "loss_lower": [0.15], "loss_upper": [1.6]}
    >>> print(with_errors(pd.DataFrame(losses)).to_string(index=False))
                loss
    0.5 [0.1, 1.6] °
    >>> print(with_errors(pd.DataFrame({"loss": [0.5, 20.0], "loss_se": [0.0123, 3.0]})).to_string(index=False))
              loss
     0.500 ± 0.012
    20     ± 3
    >>> spread = pd.DataFrame({"loss": [0.5], "loss_sd": [0.1], "loss_se": [0.0123]})
    >>> print(with_errors(spread).to_string(index=False))
                  loss
    0.50 ± 0.10 (0.012)
    """
    parts = {f"{name}_{end}" for name in frame for end in ("se", "sd", "lower", "upper")}
    told = frame.drop(columns=[name for name in frame if name in parts])
    spread = any(str(column).endswith("_sd") for column in frame)
    for name in told.select_dtypes("float"):
        rows = estimates(frame, str(name))
        rings = near_zero(np.array([row[0] for row in rows]), np.array([row[1] for row in rows]))
        texts = [described(*row, in_spreads=spread) for row in rows]
        told[name] = aligned([f"{text} {NEAR_ZERO}" if ring else text for text, ring in zip(texts, rings, strict=True)])
    return told


def long_form(frame: pd.DataFrame, measures: Sequence[str], axes: Sequence[str]) -> pd.DataFrame:
    """One row for every number: its keys and axes, then ``measure``, ``value``, ``se``, ``low`` and ``high``.

    Args:
        measures: columns of numbers; those that the frame lacks are left out.
        axes: further columns that tell numbers of one measure and class apart, such as a radius.

    >>> frame = pd.DataFrame({"class": ["a"], "group": ["few"], "samples": [2], "loss": [0.5], "loss_se": [0.1]})
    >>> print(long_form(frame, ["loss"], []).to_string(index=False))
    class group  samples measure  value  se  low  high
        a   few        2    loss    0.5 0.1  NaN   NaN
    """
    parts = [
        frame[[*KEYS, *axes]].assign(
            measure=name, value=frame[name], se=frame.get(f"{name}_se", np.nan),
            low=frame.get(f"{name}_lower", np.nan), high=frame.get(f"{name}_upper", np.nan),
        )
        for name in measures if name in frame
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def of_training(frame: pd.DataFrame, model: str, run: str | None) -> pd.DataFrame:
    """A long table with the model and the seed of its training in the first two columns.

    The seed is a number if the training is named ``"seed <number>"``, otherwise the training's name; it is missing
    without a name.
    """
    seed = re.fullmatch(r"seed (\d+)", run or "")
    frame = frame.drop(columns=["model", "seed"], errors="ignore")
    frame.insert(0, "model", model)
    frame.insert(1, "seed", pd.Series([int(seed[1]) if seed else run] * len(frame), dtype=object))
    return frame


def joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Concatenate long tables; seeds become integers if all of them are."""
    frame = pd.concat(frames, ignore_index=True)
    return frame.assign(seed=frame["seed"].convert_dtypes())


def as_html(table: pd.DataFrame, rows: int, notes: Sequence[str] = ()) -> str:
    """The first rows of a table as HTML, the number of rows left out, and the notes; labels and names are escaped.

    >>> "<b>" in as_html(pd.DataFrame({"<b>": ["<b>"]}), 1)
    False
    """
    left = len(table) - rows
    more = f"<p>{left} more of {len(table)} rows: see <code>.to_frame()</code></p>" if left > 0 else ""
    # Numbers are aligned by spaces. Browsers keep these, which are as wide as a digit.
    padded = table.head(rows).map(lambda cell: PADDING.sub(_kept, cell) if isinstance(cell, str) else cell)
    told = padded.to_html(index=False, escape=True, render_links=False)
    return told + more + "".join(f"<p>{escape(note)}</p>" for note in notes)


def _kept(spaces: re.Match[str]) -> str:
    return "\u2007" * len(spaces[0])


def over_trainings(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Combine the tables of several trainings, which have the same rows.

    A column that is equal in all of them, such as the class, stays. Numbers become their mean over the trainings that
    have one, followed by their standard deviation in ``<name>_sd`` (n - 1; NaN for a single number). Errors are
    averaged, which gives the error of a typical training. Flags are True if they are in all trainings, counts are
    summed, and texts that differ are joined.

    >>> tables = [pd.DataFrame({"class": ["a"], "loss": [loss], "loss_se": [0.5]}) for loss in (1.0, 3.0)]
    >>> over_trainings(tables).round(3).to_dict("records")
    [{'class': 'a', 'loss': 2.0, 'loss_sd': 1.414, 'loss_se': 0.5}]
    """
    columns: dict[Any, Any] = {}
    for name in dict.fromkeys(name for frame in frames for name in frame):
        parts = [frame[name] for frame in frames if name in frame]
        kind = parts[0].dtype.kind
        if all(part.equals(parts[0]) for part in parts[1:]):
            columns[name] = parts[0]
        elif kind not in "fbiu":
            rows = zip(*parts, strict=True)
            columns[name] = [" / ".join(dict.fromkeys(str(text) for text in texts if text)) for texts in rows]
        elif kind == "f":
            stacked = pd.concat(parts, axis=1)
            columns[name] = stacked.mean(axis=1)
            if not str(name).endswith(OWN_ERRORS):
                columns[f"{name}_sd"] = stacked.std(axis=1, ddof=1)
        else:
            columns[name] = pd.concat(parts, axis=1).all(axis=1) if kind == "b" else sum(parts)
    return pd.DataFrame(columns)
