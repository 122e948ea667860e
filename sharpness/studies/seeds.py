r"""The cells of a study over their seeds: means, spreads, and changes against a reference of the same seed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import scipy

from sharpness.studies.settings import measure_of

#: Columns of a cell beside its measures.
CELL = ("row", "column", "method", "operation", "options", "seed", "status", "reason")


def measures_in(cells: pd.DataFrame) -> list[str]:
    """The columns of cells that are measures, of all images or of a part of them."""
    return [str(c) for c in cells.columns if c not in CELL and not str(c).endswith(" se")]


def over_seeds(cells: pd.DataFrame) -> pd.DataFrame:
    """One row per row and column of the study, in the order of the cells.

    Of every measure there is the mean over the seeds that have it and, in ``<measure> sd``, their standard deviation
    (n - 1 in the denominator; NaN of a single seed). ``<measure> se`` is the mean of the standard errors of one
    training, of the measures that have one. ``seeds`` is the number of cells that are done, ``asked`` of all.
    """
    rows = []
    for (row, column), part in cells.groupby(["row", "column"], sort=False):
        summary: dict[str, Any] = {
            "row": row,
            "column": column,
            "seeds": int((part.status == "done").sum()),
            "asked": len(part),
        }
        for measure in measures_in(cells):
            values = part[measure].astype(float).dropna()
            summary[measure] = values.mean() if len(values) else np.nan
            summary[f"{measure} sd"] = values.std(ddof=1) if len(values) > 1 else np.nan
            if f"{measure} se" in part:
                summary[f"{measure} se"] = part[f"{measure} se"].mean()
        rows.append(summary)
    return pd.DataFrame(rows)


def changes(cells: pd.DataFrame, column: str, row: str | None = None) -> pd.DataFrame:
    r"""Changes of the cells of a study against those of a reference: one row per row, column and measure.

    Runs of one seed are compared with each other, because they share initialisation and order of the images:

    .. math:: d_s = a_s - a_s^{ref}, \qquad\text{or}\qquad d_s = \log(v_s / v_s^{ref})
        \text{ for measures that are compared by ratios}.

    ``value`` is the mean of the d_s, ``low`` and ``high`` are one standard deviation (n - 1) below and above, NaN of a
    single seed; of ratios all three are the exponentials, that is a geometric mean of ratios. A ratio of numbers
    that are not both positive does not count. ``seeds`` is the number of d_s.

    Args:
        column: of the reference, in the same row, which is left out.
        row: of a single reference for all cells, which is listed with the others.
    """
    entries = []
    for name, part in cells.groupby("row", sort=False):
        base = cells[(cells.column == column) & (cells.row == (name if row is None else row))].set_index("seed")
        shown = part[part.column != column] if row is None else part
        for other, of_seeds in shown.groupby("column", sort=False):
            of_seeds = of_seeds.set_index("seed")
            for measure in measures_in(cells):
                differences = _scaled(of_seeds, measure) - _scaled(base, measure).reindex(of_seeds.index)
                entries.append(_entry(name, other, measure, differences.to_numpy()))
    return pd.DataFrame(entries)


def _scaled(part: pd.DataFrame, measure: str) -> pd.Series:
    """A measure of every cell, or its logarithm where it is compared by ratios; NaN where there is none."""
    values = part[measure].astype(float)
    return np.log(values.where(values > 0)) if measure_of(measure).ratio else values


def _entry(row: Any, column: Any, measure: str, values: np.ndarray) -> dict[str, Any]:
    """Mean and spread of what :func:`_scaled` gave for several seeds, as they are read."""
    values = values[np.isfinite(values)]
    mean = values.mean() if len(values) else np.nan
    spread = values.std(ddof=1) if len(values) > 1 else np.nan
    numbers = np.array([mean, mean - spread, mean + spread])
    numbers = np.exp(numbers) if measure_of(measure).ratio else numbers
    named = dict(zip(("value", "low", "high"), numbers.tolist(), strict=True))
    return {"row": row, "column": column, "measure": measure, "seeds": len(values), **named}


def told_apart(cells: pd.DataFrame, level: float = 0.05) -> pd.DataFrame:
    """Test which rows of a study differ beyond the spread over seeds: one row per measure and pair.

    ``p`` is that of Welch's t-test of the seeds, on logarithms of what is compared by ratios; NaN where a
    row has fewer than two values. ``higher`` and ``lower`` are ordered by the means of what is tested, ``apart`` is
    ``p < level``.
    """
    entries = []
    rows = {str(name): part for name, part in cells.groupby("row", sort=False)}
    for measure in measures_in(cells):
        values = {name: _scaled(part, measure).dropna().to_numpy() for name, part in rows.items()}
        for first, second in combinations(rows, 2):
            a, b = values[first], values[second]
            p = np.nan
            if len(a) > 1 and len(b) > 1:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", RuntimeWarning)  # equal values: there is no spread
                    p = float(scipy.stats.ttest_ind(a, b, equal_var=False).pvalue)
            ordered = (first, second) if not len(b) or (len(a) and a.mean() >= b.mean()) else (second, first)
            entries.append({"measure": measure, "higher": ordered[0], "lower": ordered[1], "p": p, "apart": p < level})
    return pd.DataFrame(entries)


def failures(cells: pd.DataFrame) -> list[str]:
    """One line for every cell that is not done."""
    lost = cells[cells.status != "done"]
    return [f"{c.row}, {c.column}, seed {c.seed}: {c.status}: {c.reason}" for c in lost.itertuples()]


def table_of(summary: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The columns of a summary that are read, row and column under ``names``, and of how many seeds."""
    seeds = [f"{n}" if n == asked else f"{n} of {asked}" for n, asked in zip(summary.seeds, summary.asked, strict=True)]
    table = summary.rename(columns=dict(zip(("row", "column"), names, strict=True))).assign(seeds=seeds)
    measures = [c for c in table.columns if c not in (*names, "seeds", "asked") and not c.endswith(" se")]
    return table[[*names, "seeds", *measures]]
