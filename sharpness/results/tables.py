"""Tables of results, to be read: values with their errors, and means over trainings with their spread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

#: Columns of an estimate's own error, which have no spread of their own.
OWN_ERRORS = ("se", "lower", "upper", "residual", "error", "accuracy_error")


def with_errors(frame: pd.DataFrame) -> pd.DataFrame:
    """Text for every value that has a standard error in a column ``<name>_se``, or a spread over trainings in a column
    ``<name>_sd``, which it replaces: ``value ± se``, or ``mean ± sd (se)`` in a table with spreads.

    >>> print(with_errors(pd.DataFrame({"loss": [0.5, 2.0], "loss_se": [0.0123, np.nan]})).to_string(index=False))
            loss
    0.5 ± 0.012
              2
    >>> spread = pd.DataFrame({"loss": [0.5], "loss_sd": [0.1], "loss_se": [0.0123]})
    >>> print(with_errors(spread).to_string(index=False))
                  loss
    0.5 ± 0.1 (0.012)
    """
    ends = ("_se", "_sd")
    told = frame.drop(columns=[c for c in frame if str(c)[-3:] in ends and str(c)[:-3] in frame])
    spread = any(f"{name}_sd" in frame for name in told)
    nothing = np.full(len(frame), np.nan)
    for name in told:
        if not any(f"{name}{end}" in frame for end in ends):
            continue
        errors, spreads = (frame.get(f"{name}{end}", nothing) for end in ends)
        told[name] = [
            _told(value, sd, f" ({_short(se)})" if np.isfinite(se) else "") if spread else _told(value, se)
            for value, se, sd in zip(frame[name], errors, spreads, strict=True)
        ]
    return told


def _told(value: float, plus_minus: float, more: str = "") -> str:
    if not np.isfinite(value):
        return "-"
    return f"{value:.4g}" + (f" ± {_short(plus_minus)}" if np.isfinite(plus_minus) else "") + more


def _short(error: float) -> str:
    """Two digits."""
    return f"{float(f'{error:.2g}'):g}"


def as_html(table: pd.DataFrame, rows: int) -> str:
    """The first rows of a table, and a line that says how many more there are; labels and names are shown as they are.

    >>> "<b>" in as_html(pd.DataFrame({"<b>": ["<b>"]}), 1)
    False
    """
    left = len(table) - rows
    more = f"<p>{left} more of {len(table)} rows: see <code>.to_frame()</code></p>" if left > 0 else ""
    return table.head(rows).to_html(index=False, escape=True, render_links=False) + more


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
