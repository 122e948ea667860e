"""Two sets of saved results, an old one and a new one: differences of values beyond their errors, and of settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sharpness.errors import UserError, shown
from sharpness.results.base import Result
from sharpness.results.collected import Collection, collect
from sharpness.results.comparison import compare
from sharpness.results.rounding import with_error

#: Number of standard errors that 5 % of differences exceed by chance.
BEYOND = 1.96
#: Largest difference that counts as rounding, relative to the largest value of the measure.
ROUNDING = 1e-6
#: Entries of a provenance that are not settings, or that are compared as numbers.
NOT_SETTINGS = ("label", "run", "class_samples", "saturated", "checks", "settings")
KEYS = ("kind", "model", "training", "class", "measure")
VALUES = ("old", "new", "difference", "difference_se", "z", "beyond")


@dataclass(frozen=True)
class Differences:
    """The differences of two sets of results.

    Attributes:
        settings: a row for each setting of a training that differs: ``kind``, ``model``, ``training``, ``setting``,
            ``old``, ``new``.
        values: a row for each number that both have: its keys and axes, ``old``, ``new``, ``difference``, its standard
            error ``difference_se`` (NaN where none is known), ``z``, and ``beyond``: whether the difference is beyond
            1.96 standard errors, or, without any, beyond rounding.
        alone: trainings and probes that only one of the sets has, in words.
    """

    settings: pd.DataFrame
    values: pd.DataFrame
    alone: tuple[str, ...]

    @property
    def beyond(self) -> pd.DataFrame:
        """The values that differ beyond their errors: the most significant first, those without errors last."""
        found = self.values[self.values.beyond]
        order = np.argsort(-np.nan_to_num(found.z.abs().to_numpy(), nan=-1.0), kind="stable")
        return found.iloc[order].reset_index(drop=True)

    def __str__(self) -> str:
        return "\n\n".join(self._parts())

    def _parts(self, rows: int = 20) -> Iterator[str]:
        if self.alone:
            yield "\n".join(self.alone)
        if len(self.settings):
            yield "Settings that differ:\n" + self.settings.to_string(index=False)
        else:
            yield "No setting differs."
        # Some of many values exceed their errors by chance: the expected number is printed with the one found.
        known, found = self.values, self.beyond
        with_errors = int(known.difference_se.notna().sum())
        told = f"{len(found):,} of {len(known):,} values differ beyond their errors"
        if with_errors:
            told += f" ({0.05 * with_errors:.0f} of {with_errors:,} with errors would by chance)"
        if with_errors < len(known):
            told += (
                f"; {len(known) - with_errors:,} have no errors: for them rounding counts, {ROUNDING:g} of the largest"
            )
        yield told + "."
        if len(found):
            table = found.head(rows).drop(columns=["difference", "difference_se", "beyond", "z"])
            table["difference"] = [
                with_error(d, se) if se == se else f"{d:.3g}"
                for d, se in zip(found.difference.head(rows), found.difference_se.head(rows), strict=True)
            ]
            table = table.loc[:, [c for c in table if not (table[c].isna() | (table[c] == "")).all()]]
            more = f"\nand {len(found) - rows:,} more: -o FILE has all" if len(found) > rows else ""
            yield table.to_string(index=False, na_rep="-", float_format=lambda v: f"{v:.4g}") + more


def differences(old: str | Path, new: str | Path) -> Differences:
    """Compare two result files, or all results of two folders, training by training.

    Standard errors of differences assume that both are independent. This overstates them for probes of the same images
    or draws, so differences beyond them are real in either case.

    Args:
        old: a saved result, or a folder of them.
        new: the results to compare with them.

    Raises:
        UserError: no results, no common results, or numbers that cannot be compared because samples, classes, loss,
            scope or radius differ; the message names the field.
    """
    sets = [_trainings(collect(one)) for one in (old, new)]
    names = [list(one) for one in sets]
    pairs = {key: key for key in names[0] if key in sets[1]} or _alike(*names)
    if not pairs:
        told = ["; ".join(" ".join(filter(None, key)) for key in one[:4]) for one in names]
        raise UserError(f"{old} and {new} have no training in common ({told[0]} and {told[1]}): give two of the same")
    alone = tuple(
        f"{where} alone has {' '.join(filter(None, key))}"
        for where, own, known in ((old, names[0], pairs), (new, names[1], pairs.values()))
        for key in own
        if key not in known
    )
    settings: list[dict[str, Any]] = []
    values: list[pd.DataFrame] = []
    for key, other in pairs.items():
        a, b = sets[0][key], sets[1][other]
        compare({f"{old}": a, f"{new} " if str(old) == str(new) else f"{new}": b})  # refuses what is not comparable
        row = {"kind": key[0], "model": key[1], "training": key[2]}
        settings += [{**row, "setting": name, "old": x, "new": y} for name, x, y in _settings(a, b)]
        values.append(_values(a, b).assign(**row))
    frame = pd.concat(values, ignore_index=True)
    axes = [name for name in frame if name not in (*KEYS, *VALUES)]
    columns = ["kind", "model", "training", "setting", "old", "new"]
    return Differences(pd.DataFrame(settings, columns=columns), frame[[*KEYS, *axes, *VALUES]], alone)


def _alike(old: Sequence[tuple[str, ...]], new: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Pair trainings with different names that are the only ones of their model, or of their kind, on both sides."""
    for parts in (2, 1):
        count = [[key[:parts] for key in side] for side in (old, new)]
        found = {
            a: b for a in old for b in new
            if a[:parts] == b[:parts] and count[0].count(a[:parts]) == count[1].count(b[:parts]) == 1
        }  # fmt: skip
        if found:
            return found
    return {}


def _trainings(collections: Sequence[Collection]) -> dict[tuple[str, ...], Result]:
    """Results by kind, model, training, and the name of their table if there are several of a kind."""
    kinds, seen = [c.kind for c in collections], Counter[tuple[type, str]]()
    found: dict[tuple[str, ...], Result] = {}
    for c in collections:
        seen[c.kind, c.name] += 1
        number = seen[c.kind, c.name]
        # The files of two tables may have the same common name.
        name = c.name if number == 1 else f"{c.name} {number}"
        table = [name] if kinds.count(c.kind) > 1 else []
        for one in (one for of_label in c.members.values() for one in of_label):
            found[c.kind.__name__.removesuffix("Result"), one.label, one.run or "", *table] = one.result
    return found


def _settings(a: Result, b: Result) -> Iterator[tuple[str, str, str]]:
    """Settings that differ, in words: plain fields, and entries of the provenance."""
    described = ("class_names", "groups", "provenance", "described", "base_loss", "precision_error")
    own = [f.name for f in fields(a) if f.name not in (*a.DIMENSIONS, *described)]
    pairs = [(name, getattr(a, name), getattr(b, name)) for name in own]
    told = dict.fromkeys([*a.provenance, *b.provenance])
    pairs += [(name, a.provenance.get(name), b.provenance.get(name)) for name in told if name not in NOT_SETTINGS]
    for name, x, y in pairs:
        numbers = isinstance(x, float) and isinstance(y, float)
        if x != y and not (numbers and np.isclose(x, y, rtol=ROUNDING, atol=0, equal_nan=True)):
            yield name, shown(str(x), 40), shown(str(y), 40)


def _values(a: Result, b: Result) -> pd.DataFrame:
    """The numbers that both results have, side by side."""
    axes = list(a.AXES)
    keys = ["class", "group", *axes, "measure"]
    parts = [r.to_frame(long=True).reset_index(drop=True) for r in (a, b)]
    if not axes:
        # A class may be called as its group, whose row is before its own.
        parts = [part.assign(nth=part.groupby(keys).cumcount()) for part in parts]
        found = parts[0].merge(parts[1], on=["class", "group", "measure", "nth"], suffixes=("_a", "_b"))
    else:  # rows are paired by position, because floats along an axis are not reliable keys
        if len(parts[0]) != len(parts[1]):
            raise UserError(
                f"{a.label}: {len(parts[0])} and {len(parts[1])} numbers of {', '.join(axes)}: give as many"
            )
        for key in keys:
            # Names of rows, such as layers, and their numbers; positions along an axis are floats.
            pair = [list(part[key]) for part in parts]
            if parts[0][key].dtype.kind != "f" and pair[0] != pair[1]:
                x, y = next((x, y) for x, y in zip(*pair, strict=True) if x != y)
                raise UserError(f"{a.label}: {key} is {x} and {y} in the same row: give results with the same rows")
        left = parts[0].rename(columns={n: f"{n}_a" for n in ("value", "se")})
        found = left.assign(value_b=parts[1]["value"], se_b=parts[1]["se"])
    old, new = (found[f"value_{side}"].to_numpy(dtype=float) for side in "ab")
    errors = np.hypot(*(found[f"se_{side}"].to_numpy(dtype=float) for side in "ab"))
    with np.errstate(invalid="ignore", divide="ignore"):
        difference = np.where(old == new, 0.0, new - old)  # also for equal infinities
        z = difference / errors
    size = pd.Series(np.abs(old)).where(np.isfinite(old)).groupby(found["measure"]).transform("max").to_numpy()
    sure = np.where(np.isfinite(errors) & (errors > 0), np.abs(z) > BEYOND, np.abs(difference) > ROUNDING * size)
    lost = np.isnan(old) != np.isnan(new)
    return found[[k for k in keys if k != "group"]].assign(
        old=old, new=new, difference=difference, difference_se=errors, z=z, beyond=sure | lost
    )
