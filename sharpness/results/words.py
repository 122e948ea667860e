"""Notes below a table, and the words in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from sharpness.errors import shown
from sharpness.results.rounding import with_error

#: Mark of a value within two of its standard errors of zero.
NEAR_ZERO = "°"
#: Names of curvature matrices, by their ``kind``.
MATRICES = {"hessian": "Hessian", "ggn": "Gauss-Newton matrix"}


def near_zero(value: np.ndarray, error: np.ndarray) -> np.ndarray:
    """True where values (...) lie within two of their standard errors (...) of zero."""
    with np.errstate(invalid="ignore"):
        return (error > 0) & (np.abs(value) <= 2 * error)


def named_matrix(provenance: Mapping[str, Any]) -> str:
    """The name of the curvature matrix of a result, which is the Hessian unless its provenance says otherwise.

    >>> named_matrix({"kind": "ggn"}), named_matrix({})
    ('Gauss-Newton matrix', 'Hessian')
    """
    kind = str(provenance.get("kind") or "hessian")
    return MATRICES.get(kind, kind)


def in_coordinates(provenance: Mapping[str, Any]) -> str:
    """The text that the label of an axis adds if derivatives are not in plain coordinates."""
    return "" if provenance.get("coordinates", "plain") == "plain" else named_coordinates(provenance)


def named_coordinates(provenance: Mapping[str, Any]) -> str:
    """The text for the coordinates of derivatives, including plain ones."""
    return f" ({provenance.get('coordinates', 'plain')} coordinates)"


def estimates(frame: pd.DataFrame, name: str) -> list[tuple[float, float, float, float, float]]:
    """Value, standard error, spread and ends of the interval of every row; NaN for missing ones."""
    columns = [name, *(f"{name}_{end}" for end in ("se", "sd", "lower", "upper"))]
    return list(frame.reindex(columns=columns).astype(float).itertuples(index=False, name=None))


def marks_in(frame: pd.DataFrame, over: Mapping[str, str]) -> list[str]:
    """The meaning of brackets, ± and rings in a table of ``with_errors``: one line, or none.

    Args:
        over: the source of variation of every column's errors, such as "images".
    """
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


def told_circumstances(provenance: Mapping[str, Any]) -> list[str]:
    """Lines on circumstances that affect all numbers of a result: half precision in the model, and the temperature.

    >>> told_circumstances({"half_precision": "bfloat16 in layer 'fc' (Linear)"})
    ["reduced precision: the model computes in bfloat16 in layer 'fc' (Linear)"]
    """
    half = provenance.get("half_precision")
    told = [f"reduced precision: the model computes in {shown(str(half), 160)}"] if half else []
    return told + told_temperature(provenance)


def told_temperature(provenance: Mapping[str, Any]) -> list[str]:
    """One line on the temperature that logits were divided by, with its standard error; none without one.

    >>> told_temperature({"temperature": 1.7321, "temperature_se": 0.021, "temperature_samples": 2000,
    ...     "temperature_images": "held-out images"})
    ['logits at temperature 1.73 ± 0.02, fitted on 2000 held-out images']
    >>> told_temperature({})
    []
    """
    if "temperature" not in provenance:
        return []
    value = with_error(float(provenance["temperature"]), float(provenance.get("temperature_se") or np.nan))
    number, images = provenance.get("temperature_samples"), provenance.get("temperature_images")
    return [f"logits at temperature {value}, {f'fitted on {number} {images}' if number else images}"]


def without_repetition(told: Mapping[str, Iterable[str]]) -> list[str]:
    """Join the lines of several models or trainings; lines of only some of them name these.

    >>> without_repetition({"a": ["of both", "of one"], "b": ["of both"]})
    ['of both', 'a: of one']
    """
    lines: dict[str, dict[str, None]] = {}
    for name, of_name in told.items():
        for line in of_name:
            lines.setdefault(line, {})[name] = None
    return [line if len(on) == len(told) else f"{', '.join(on)}: {line}" for line, on in lines.items()]


def _over(names: Iterable[str], over: Mapping[str, str]) -> str:
    """The sources of variation of some intervals, in words, grouped by source."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(over[name], []).append(name)
    if len(kinds) == 1:
        return f"over {next(iter(kinds))}"
    return "; ".join(f"{', '.join(members)} over {kind}" for kind, members in kinds.items())
