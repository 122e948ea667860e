"""Tables of results, to be read: values with their errors, and means over trainings with their spread."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import pandas as pd

from sharpness.results.words import estimates, named_errors, told_with

#: Columns of an estimate's own error, which have no spread of their own.
OWN_ERRORS = ("se", "lower", "upper", "residual", "error", "accuracy_error")


def with_errors(frame: pd.DataFrame) -> pd.DataFrame:
    """Text for every value that has an interval, an error or a spread over trainings in columns of its own.

    Those are ``<name>_lower`` and ``<name>_upper``, ``<name>_se``, ``<name>_sd``, or without the name for a column
    ``value``. The text is ``value [lower, upper]``, or ``value ± se`` without an interval, and in a table with spreads
    ``mean ± sd [lower, upper]`` or ``mean ± sd (se)``. A ring follows a value within two standard errors of zero.

    >>> losses = {"loss": [0.5], "loss_se": [0.3], "loss_lower": [0.15], "loss_upper": [1.6]}
    >>> print(with_errors(pd.DataFrame(losses)).to_string(index=False))
                 loss
    0.5 [0.15, 1.6] °
    >>> print(with_errors(pd.DataFrame({"loss": [0.5, 2.0], "loss_se": [0.0123, None]})).to_string(index=False))
           loss
    0.5 ± 0.012
              2
    >>> spread = pd.DataFrame({"loss": [0.5], "loss_sd": [0.1], "loss_se": [0.0123]})
    >>> print(with_errors(spread).to_string(index=False))
                  loss
    0.5 ± 0.1 (0.012)
    """
    frame = named_errors(frame)
    parts = {f"{name}_{end}" for name in frame for end in ("se", "sd", "lower", "upper")}
    told = frame.drop(columns=[name for name in frame if name in parts])
    for name in told:
        if any(f"{name}_{end}" in frame for end in ("se", "sd", "lower")):
            spread = any(str(column).endswith("_sd") for column in frame)
            told[name] = [told_with(*row, in_spreads=spread) for row in estimates(frame, str(name))]
    return told


def as_html(table: pd.DataFrame, rows: int, notes: Sequence[str] = ()) -> str:
    """The first rows of a table, a line that says how many more there are, and the table's notes; labels and names are
    shown as they are.

    >>> "<b>" in as_html(pd.DataFrame({"<b>": ["<b>"]}), 1)
    False
    """
    left = len(table) - rows
    more = f"<p>{left} more of {len(table)} rows: see <code>.to_frame()</code></p>" if left > 0 else ""
    told = table.head(rows).to_html(index=False, escape=True, render_links=False)
    return told + more + "".join(f"<p>{escape(note)}</p>" for note in notes)


def over_trainings(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One table of the tables of several trainings, which have the same rows.

    A column that is equal in all of them, such as the class, stays. Numbers become their mean over the trainings that
    have one, and ``<name>_sd`` behind it their standard deviation (n - 1; NaN of a single one). Errors of the single
    estimates become their mean, which is the error of a typical training. Flags are True where they are in all
    trainings, and counts are added up.

    >>> tables = [pd.DataFrame({"class": ["a"], "loss": [loss], "loss_se": [0.5]}) for loss in (1.0, 3.0)]
    >>> over_trainings(tables).round(3).to_dict("records")
    [{'class': 'a', 'loss': 2.0, 'loss_sd': 1.414, 'loss_se': 0.5}]
    """
    first: pd.DataFrame = frames[0]
    columns: dict[Any, Any] = {}
    for name in first:
        parts = [frame[name] for frame in frames]
        kind = first[name].dtype.kind
        if kind not in "fbiu" or all(part.equals(parts[0]) for part in parts[1:]):
            columns[name] = parts[0]
        elif kind == "f":
            stacked = pd.concat(parts, axis=1)
            columns[name] = stacked.mean(axis=1)
            if name not in OWN_ERRORS and not str(name).endswith(tuple(f"_{error}" for error in OWN_ERRORS)):
                columns[f"{name}_sd"] = stacked.std(axis=1, ddof=1)
        else:
            columns[name] = pd.concat(parts, axis=1).all(axis=1) if kind == "b" else sum(parts)
    return pd.DataFrame(columns)
