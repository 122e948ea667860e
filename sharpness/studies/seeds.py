r"""Statistics of the cells of a study over seeds: means, spreads, and changes from a reference of the same seed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import scipy

from sharpness.studies.settings import measure_of

#: Columns of a cell that are not measures.
CELL = ("row", "column", "method", "operation", "options", "seed", "status", "reason")


def measures_in(cells: pd.DataFrame) -> list[str]:
    """Return the columns of cells that are measures, of all images or of the tail."""
    return [str(c) for c in cells.columns if c not in CELL and not str(c).endswith(" se")]


def over_seeds(cells: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each row and column of the study, in the order of the cells.

    ``<measure>`` is the mean over the seeds with a value, and ``<measure> sd`` their standard deviation (n - 1 in the
    denominator; NaN for a single seed). ``<measure> se`` is the mean of the standard errors of single trainings, if the
    measure has any. ``seeds`` is the number of cells that are done, and ``asked`` that of all cells.
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
    r"""Return the changes of cells from a reference: one row for each row, column and measure.

    Runs of the same seed are compared, because they share initialisation and order of the images:

    .. math:: d_s = a_s - a_s^{ref}, \qquad\text{or}\qquad d_s = \log(v_s / v_s^{ref})
        \text{ for measures that are compared by ratios}.

    ``value`` is the mean of the d_s; ``low`` and ``high`` are one standard deviation (n - 1) below and above it, NaN
    for a single seed. For ratios all three are exponentiated, so ``value`` is a geometric mean of ratios; ratios of
    numbers that are not both positive are left out. ``seeds`` is the number of d_s.

    Args:
        cells: cells of the study.
        column: column of the reference. If ``row`` is None, each row has its own reference, which is left out.
        row: row of a single reference for all cells, which is listed with the others.
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
    """Return a measure of every cell, or its logarithm if it is compared by ratios; NaN if there is none."""
    values = part[measure].astype(float)
    return np.log(values.where(values > 0)) if measure_of(measure).ratio else values


def _entry(row: Any, column: Any, measure: str, values: np.ndarray) -> dict[str, Any]:
    """Return mean and spread over seeds of differences of :func:`_scaled` values, with ratios exponentiated."""
    values = values[np.isfinite(values)]
    mean = values.mean() if len(values) else np.nan
    spread = values.std(ddof=1) if len(values) > 1 else np.nan
    numbers = np.array([mean, mean - spread, mean + spread])
    numbers = np.exp(numbers) if measure_of(measure).ratio else numbers
    named = dict(zip(("value", "low", "high"), numbers.tolist(), strict=True))
    return {"row": row, "column": column, "measure": measure, "seeds": len(values), **named}


def told_apart(cells: pd.DataFrame, level: float = 0.05) -> pd.DataFrame:
    """Test which rows of a study differ beyond the spread over seeds; return one row for each measure and pair.

    ``p`` is the p-value of Welch's t-test over seeds, on logarithms for measures that are compared by ratios; NaN if a
    row has fewer than two values. ``higher`` and ``lower`` are ordered by the means of the tested values, and ``apart``
    is ``p < level``.
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
                    warnings.simplefilter("ignore", RuntimeWarning)  # equal values have no spread
                    p = float(scipy.stats.ttest_ind(a, b, equal_var=False).pvalue)
            ordered = (first, second) if not len(b) or (len(a) and a.mean() >= b.mean()) else (second, first)
            entries.append({"measure": measure, "higher": ordered[0], "lower": ordered[1], "p": p, "apart": p < level})
    return pd.DataFrame(entries)


def failures(cells: pd.DataFrame) -> list[str]:
    """Return one line for every cell that is not done."""
    lost = cells[cells.status != "done"]
    return [f"{c.row}, {c.column}, seed {c.seed}: {c.status}: {c.reason}" for c in lost.itertuples()]


def table_of(summary: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return the displayed columns of a summary, with row and column named ``names``, and the number of seeds."""
    seeds = [f"{n}" if n == asked else f"{n} of {asked}" for n, asked in zip(summary.seeds, summary.asked, strict=True)]
    table = summary.rename(columns=dict(zip(("row", "column"), names, strict=True))).assign(seeds=seeds)
    measures = [c for c in table.columns if c not in (*names, "seeds", "asked") and not c.endswith(" se")]
    return table[[*names, "seeds", *measures]]
