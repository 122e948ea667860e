"""What must agree for numbers of several models to stand in one picture or one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sharpness.errors import UserError, shown
from sharpness.results.base import Result

#: How numbers came about, by their names in a provenance.
SHARED = ("dtype", "data_sha256", "scope", "batchnorm", "loss")
#: What tables and pictures are split by.
SPLIT = ("class_names", "groups")


def require_same(results: Mapping[str, Result], fields: Sequence[str]) -> None:
    """Refuse results of other data, scope, BatchNorm policy, loss, precision, classes or groups, or other ``fields``.

    What a provenance does not tell is not compared.

    Raises:
        UserError: names the field that differs, and both values; or results of several kinds.
    """
    kinds = {type(r).__name__ for r in results.values()}
    if len(kinds) > 1:
        raise UserError(f"{' and '.join(sorted(kinds))} cannot be compared: give results of one kind")
    require_equal({
        label: {name: r.provenance[name] for name in SHARED if name in r.provenance}
        | {name: getattr(r, name) for name in (*SPLIT, *fields)}
        for label, r in results.items()
    })  # fmt: skip


def require_equal(described: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse descriptions by label that differ from the first one in a field that both have.

    Raises:
        UserError: names the field, and both values.
    """
    (first_label, first), *rest = described.items()
    for label, other in rest:
        for name in first:
            if name in other and not _equal(first[name], other[name]):
                pair, values = f"{first_label!r} and {label!r}", f"{_told(first[name])} and {_told(other[name])}"
                raise UserError(f"{pair} cannot be compared: {name} is {values}, and must be the same")


def noise_fields(names: str, fields: Sequence[str]) -> tuple[str, ...]:
    """``fields``, and normalisation and seed where Gaussian directions are among the ``names`` with a plus between."""
    return (*fields, "normalization", "seed") if "gaussian" in names.split("+") else tuple(fields)


def _equal(a: Any, b: Any) -> bool:
    return bool(np.array_equal(a, b) if isinstance(a, np.ndarray) or isinstance(b, np.ndarray) else a == b)


def _told(value: Any) -> str:
    """A value in few words: of a grid, where it begins and ends."""
    if isinstance(value, np.ndarray) and len(value) > 1 and np.allclose(np.diff(value, 2), 0):
        return f"{value[0]:g} to {value[-1]:g} in {len(value)} points"
    return shown(str(value.tolist() if isinstance(value, np.ndarray) else value))
