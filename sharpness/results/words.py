"""An estimate as text, with its interval, and the line below a table that says what the marks in it mean."""

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


def bracketed(lower: float, upper: float) -> str:
    """An interval behind its value, nothing where it is not known.

    >>> bracketed(0.72247, 1.0)
    ' [0.722, 1]'
    """
    return f" [{lower:.3g}, {upper:.3g}]" if np.isfinite([lower, upper]).all() else ""


def told_with(value: float, se: float, sd: float, lower: float, upper: float, *, in_spreads: bool = False) -> str:
    """A value with what is known about its error, see :func:`~sharpness.results.tables.with_errors`."""
    if not np.isfinite(value):
        return "-"
    interval = bracketed(lower, upper)
    told = f"{value:.4g}"
    if in_spreads:
        own = f" ({_short(se)})" if np.isfinite(se) else ""
        told += (f" ± {_short(sd)}" if np.isfinite(sd) else "") + (interval or own)
    else:
        told += interval or (f" ± {_short(se)}" if np.isfinite(se) else "")
    return told + (f" {NEAR_ZERO}" if near_zero(np.asarray(value), np.asarray(se)) else "")


def named_errors(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the name of its column ``value`` before those that are about it alone."""
    if "value" not in frame:
        return frame
    return frame.rename(columns={end: f"value_{end}" for end in ("se", "lower", "upper")})


def estimates(frame: pd.DataFrame, name: str) -> list[tuple[float, ...]]:
    """Value, standard error, spread and ends of the interval of every row, NaN for what there is not."""
    columns = [name, *(f"{name}_{end}" for end in ("se", "sd", "lower", "upper"))]
    return list(frame.reindex(columns=columns).astype(float).itertuples(index=False, name=None))


def marks_in(frame: pd.DataFrame, over: Mapping[str, str]) -> list[str]:
    """What brackets, ± and rings in a table of :func:`~sharpness.results.tables.with_errors` mean: a line, or none.

    Args:
        over: of every value that has an interval or an error, what it is over, such as "images".
    """
    frame = named_errors(frame)
    shown = {name: np.array(estimates(frame, name)) for name in over if name in frame and len(frame)}
    known = {name: rows[np.isfinite(rows[:, 0])] for name, rows in shown.items()}
    spread = any(np.isfinite(rows[:, 2]).any() for rows in known.values())
    bounded = [name for name, rows in known.items() if np.isfinite(rows[:, 3]).any()]
    plain = [name for name, rows in known.items() if (np.isfinite(rows[:, 1]) & np.isnan(rows[:, 3])).any()]
    one = " of one training, on average" if spread else ""
    notes = ["±: one standard deviation over trainings"] if spread else []
    if bounded:
        notes.append(f"[ ]: 95 % intervals{one}, {_over(bounded, over)}")
    if plain:
        notes.append(f"{'( )' if spread else '±'}: one standard error{one}, {_over(plain, over)}")
    if any(near_zero(rows[:, 0], rows[:, 1]).any() for rows in known.values()):
        notes.append(f"{NEAR_ZERO}: within two standard errors of zero")
    return ["; ".join(notes)] if notes else []


def _over(names: Iterable[str], over: Mapping[str, str]) -> str:
    """What the intervals of these are over, those of a kind together."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(over[name], []).append(name)
    if len(kinds) == 1:
        return f"over {next(iter(kinds))}"
    return "; ".join(f"{', '.join(members)} over {kind}" for kind, members in kinds.items())


def _short(error: float) -> str:
    """Two digits."""
    return f"{float(f'{error:.2g}'):g}"
