"""Numbers with their intervals as text, and the lines below a table that say what the marks in it mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

#: Behind a value that lies within two of its standard errors of zero.
NEAR_ZERO = "°"


def near_zero(value: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Whether values (...) lie within two of their standard errors (...) of zero."""
    with np.errstate(invalid="ignore"):
        return (error > 0) & (np.abs(value) <= 2 * error)


def bracketed(value: float, lower: float, upper: float) -> str:
    """A value and its interval.

    >>> bracketed(1.0, 0.72247, 1.0)
    '1 [0.722, 1]'
    """
    ends = f" [{lower:.3g}, {upper:.3g}]" if np.isfinite([lower, upper]).all() else ""
    return f"{value:.4g}{ends}"


def with_errors(frame: pd.DataFrame) -> pd.DataFrame:
    """Text for every value that has an interval in columns ``<name>_lower``, ``<name>_upper``, which it replaces.

    Where there is no interval, a standard error in a column ``<name>_se`` stands behind a ±. A ring follows a value
    within two standard errors of zero.

    >>> losses = {"loss": [0.5, 2.0], "loss_se": [0.3, np.nan], "loss_lower": [0.15, np.nan], "loss_upper": [1.6, np.nan]}
    >>> print(with_errors(pd.DataFrame(losses)).to_string(index=False))
                 loss
    0.5 [0.15, 1.6] °
                    2
    >>> print(with_errors(pd.DataFrame({"loss": [0.5], "loss_se": [0.0123]})).to_string(index=False))
           loss
    0.5 ± 0.012
    """
    parts = {f"{name}{end}" for name in frame for end in ("_se", "_lower", "_upper")}
    told = frame.drop(columns=[name for name in frame if name in parts])
    for name in told:
        if {f"{name}_se", f"{name}_lower"} & set(frame):
            told[name] = [_text(*row) for row in _parts(frame, str(name))]
    return told


def notes_on(frame: pd.DataFrame, over: Mapping[str, str]) -> list[str]:
    """What brackets, ± and rings in :func:`with_errors` of a table mean.

    Args:
        over: of every value that has an interval or an error, what it is over, such as "images".
    """
    shown = {name: _parts(frame, name) for name in over if name in frame}
    bounded = [n for n, rows in shown.items() if any(np.isfinite(v) and np.isfinite(low) for v, _, low, _ in rows)]
    plain = [
        n for n, rows in shown.items() if any(np.isfinite([v, e]).all() and np.isnan(low) for v, e, low, _ in rows)
    ]
    notes = []
    if bounded:
        notes.append(f"[ ]: 95 % intervals, {_over(bounded, over)}")
    if plain:
        notes.append(f"±: one standard error, {_over(plain, over)}")
    if any(near_zero(v, e) for rows in shown.values() for v, e, *_ in rows if np.isfinite(v)):
        notes.append(f"{NEAR_ZERO}: within two standard errors of zero")
    return ["; ".join(notes)] if notes else []


def _over(names: Iterable[str], over: Mapping[str, str]) -> str:
    """What the intervals of these are over, those of a kind together."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(over[name], []).append(name)
    if len(kinds) == 1:
        return f"over {next(iter(kinds))}"
    return ", ".join(f"of {' and '.join(members)} over {kind}" for kind, members in kinds.items())


def _parts(frame: pd.DataFrame, name: str) -> list[tuple[float, ...]]:
    """Value, standard error and ends of the interval of every row, NaN for what there is not."""
    columns = [name, f"{name}_se", f"{name}_lower", f"{name}_upper"]
    return list(frame.reindex(columns=columns).astype(float).itertuples(index=False, name=None))


def _text(value: float, error: float, lower: float, upper: float) -> str:
    if not np.isfinite(value):
        return "-"
    told = bracketed(value, lower, upper)
    if np.isfinite(error) and not np.isfinite(lower):
        told += f" ± {float(f'{error:.2g}'):g}"
    return told + (f" {NEAR_ZERO}" if near_zero(np.asarray(value), np.asarray(error)) else "")
