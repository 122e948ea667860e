"""Paired comparison of models over the seeds of their trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from sharpness.errors import UserError, choose
from sharpness.results.estimates import Subset
from sharpness.results.kept import Content, KeptTable
from sharpness.results.runs import Entry, Runs
from sharpness.statistics.estimate import interval, mean_and_error
from sharpness.untrusted.refused import Refused

#: Largest number of pairs for which all signs are tried, and number of random sign vectors for more pairs.
EXACT, DRAWS = 14, 9999
#: Columns of a comparison.
ORDER = ("measure", "of", "first", "second", "pairs", "scale", "difference", "lower", "upper", "effect", "p", "p_holm")


@dataclass(frozen=True)
class Paired(KeptTable):
    """Differences between models in every measure, over trainings of the same seeds, with a paired test.

    Attributes:
        rows: a row for every measure, subset and pair of models: ``measure``, ``of``, ``first``, ``second``, ``pairs``,
            ``scale``, ``difference`` with the ends of its 95 % interval ``lower`` and ``upper``, ``effect``, ``p`` and
            ``p_holm``.
        level: significance level.
    """

    TEXTS = ("measure", "of", "first", "second", "scale")
    NUMBERS = ("pairs", "difference", "lower", "upper", "effect", "p", "p_holm")

    rows: pd.DataFrame
    level: float

    def content(self) -> Content:
        """The rows, and the level."""
        return Content(self.rows, {}, {"level": self.level})

    @classmethod
    def of_content(cls, content: Content) -> Paired:
        """The comparison with these rows."""
        level, pairs = content.plain.get("level"), content.rows["pairs"]
        if not isinstance(level, float) or not 0 < level < 1 or not np.isfinite(pairs).all():
            raise Refused("has no level between 0 and 1, or no numbers of pairs: compare again")
        return cls(content.rows.astype({"pairs": int})[list(ORDER)], level)

    def to_frame(self) -> pd.DataFrame:
        """The rows, with ``verdict`` in words."""
        return self.rows.assign(verdict=[self._verdict(row) for row in self.rows.itertuples()])

    @property
    def sentences(self) -> list[str]:
        """Every row as a plain sentence."""
        return [f"{r.measure} of {r.of}: {self._verdict(r)}" for r in self.rows.itertuples()]

    @property
    def note(self) -> str:
        """All rows in one line: those that differ, and a remark on the others."""
        found = self.rows[self.rows.p_holm < self.level]
        told = [f"{r.measure} of {r.of}: {_order(r)}" for r in found.itertuples()]
        least = int(self.rows.pairs.min())
        too_few = f"; {least} pairs cannot tell {len(self.rows)} comparisons apart" if self._hopeless(least) else ""
        verdicts = "; ".join(told) + "; all else not distinguishable" if told else "not distinguishable"
        return f"paired over seeds (sign flips, Holm over {len(self.rows)}, p < {self.level:g}): {verdicts}{too_few}"

    def plot(self, **options: Any) -> Any:
        """Draw dots with 95 % intervals: a panel of ratios and one of differences, with a row per measure and subset.

        Args:
            options: ``width`` in inches.

        Returns:
            The list of Axes.
        """
        from sharpness.plots import DotColumn, plot_dots

        columns = []
        for scale, part in self.rows.groupby("scale", sort=False):
            keys = pd.MultiIndex.from_frame(part[["measure", "of"]].drop_duplicates())
            names = [f"{m} of {of}" for m, of in keys]
            panels: dict[str, dict[str, np.ndarray]] = {}
            for (first, second), pair in part.groupby(["first", "second"], sort=False):
                # One pair of models may have a ratio where another has a difference: it has no number in that row.
                rows = pair.drop_duplicates(["measure", "of"]).set_index(["measure", "of"]).reindex(keys)
                numbers = rows[["difference", "lower", "upper"]].to_numpy(float).T
                panels.setdefault("", {})[f"{first} against {second}"] = numbers
            ratio = scale == "ratio"
            label = "ratio" if ratio else "difference"
            columns.append((names, DotColumn(label, panels, reference=1.0 if ratio else 0.0, log=ratio)))
        return [ax for names, column in columns for ax in plot_dots([column], names, **options)]

    def _verdict(self, row: Any) -> str:
        if not row.p_holm < self.level:
            why = ", too few" if self._hopeless(int(row.pairs)) else ""
            return f"{row.first} and {row.second} not distinguishable ({row.pairs} pairs{why})"
        by = "ratio" if row.scale == "ratio" else "difference"
        bounds = f"{by} {row.difference:.3g} [{row.lower:.3g}, {row.upper:.3g}]"
        return f"{_order(row)}, {bounds} ({row.pairs} pairs, p = {row.p_holm:.2g})"

    def _hopeless(self, pairs: int) -> bool:
        """True if no outcome of this number of pairs is below the level after Holm's correction."""
        least = 2.0 ** (1 - pairs) if pairs <= EXACT else 1 / (DRAWS + 1)
        return len(self.rows) * least >= self.level


def paired(
    results: Mapping[str, Entry],
    measures: str | Sequence[str] | None = None,
    subsets: Subset | Sequence[Subset] = None,
    level: float = 0.05,
) -> Paired:
    r"""Compare models over trainings of the same seeds.

    For every pair of models and every measure, the table has the mean over seeds of :math:`d_s = a_s - b_s`, or of
    :math:`\log(a_s / b_s)` if all values are positive and unbounded, given as a ratio; its Student's 95 % interval; the
    effect size :math:`\bar d / \mathrm{sd}(d)`; and the p-value of the sign-flip test, which is the fraction of all
    :math:`2^n` sign vectors for which :math:`|\bar d|` is at least as large. The test is exact if differences of equal
    models are symmetric; with more than 14 pairs, 9999 random sign vectors are used. With n pairs, p is at least
    :math:`2^{1-n}`, so fewer than 6 pairs never reach 0.05. Holm's correction is over all rows.

    Args:
        results: ``{label: Runs}``; trainings are paired by their names, such as ``"seed 0"``.
        measures: names of measures, as comma-separated text or a sequence; by default all.
        subsets: None (all samples), groups and classes, or one group or class; by default all samples and the groups.
        level: significance level.

    Returns:
        The table of all pairs.

    Raises:
        UserError: no two models share two named trainings, an unknown measure, group or class, or a level outside of
            (0, 1).

    >>> paired({})
    Traceback (most recent call last):
    ...
    sharpness.errors.UserError: no two models share two trainings of one name: give lists of trainings that record seeds
    """
    if not 0 < level < 1:
        raise UserError(f"level={level}: give a number between 0 and 1, such as 0.05")
    # Trainings without names of their own cannot be paired.
    several = {label: entry for label, entry in results.items() if isinstance(entry, Runs) and _named(entry)}
    if isinstance(measures, str):
        measures = [name.strip() for name in measures.split(",") if name.strip()]
    chosen = list(measures or ())
    parts: list[Subset] = [subsets] if isinstance(subsets, str | int) else list(subsets or ())
    # Checked first, because a measure that only some models have is left out below.
    if trained := [one for entry in several.values() for one in entry]:
        for name in chosen:
            choose("measure", name, list(dict.fromkeys(known for one in trained for known in one)))
        for part in parts:
            if part is not None:
                trained[0].classes_of(part)
    rows = []
    for first, second in combinations(several, 2):
        a, b = several[first], several[second]
        shared = [name for name in a.names if name in b.names]
        if len(shared) < 2:
            continue
        one = a[shared[0]]
        for measure in chosen or one.keys():
            for subset in parts or (None, *(g for g, members in one.groups.items() if members)):
                values = np.array([[_value(runs[name], measure, subset) for name in shared] for runs in (a, b)])
                if len(found := values[:, np.isfinite(values).all(axis=0)].T) > 1:
                    bounds = one.description(measure).bounds if hasattr(one, "description") else None
                    of = "all" if subset is None else one.row(subset)["class"]
                    named = {"measure": measure, "of": of, "first": first, "second": second}
                    rows.append({**named, **_compared(found, bounds is None and "accuracy" not in measure)})
    if not rows:
        raise UserError("no two models share two trainings of one name: give lists of trainings that record seeds")
    frame = pd.DataFrame(rows)
    return Paired(frame.assign(p_holm=holm(frame["p"].to_numpy())), level)


def sign_flip(differences: np.ndarray) -> float:
    """The two-sided p-value of the mean of paired differences under flips of their signs.

    Exact up to 14 pairs; with more, estimated from 9999 random flips and the observed signs.

    >>> sign_flip(np.array([1.0, 2.0, 3.0])), sign_flip(np.array([1.0, -1.0]))
    (0.25, 1.0)
    """
    n = len(differences)
    if n <= EXACT:
        signs = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
    else:
        signs = np.vstack([np.ones((1, n)), np.random.default_rng(0).choice([-1, 1], (DRAWS, n))])
    sums = np.abs(signs @ differences)
    # Equal sums may differ by rounding, which is relative to the numbers: their sum may be 0.
    return float((sums >= sums[0] - 1e-12 * np.abs(differences).sum()).mean())


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down correction of p-values (n,).

    >>> holm(np.array([0.01, 0.04, 0.03])).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p)
    scaled = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    found = np.empty_like(p)
    found[order] = np.minimum(scaled, 1)
    return found


def _compared(values: np.ndarray, ratio: bool) -> dict[str, Any]:
    """The numbers of one row, from pairs (n, 2)."""
    ratio = ratio and bool((values > 0).all())
    differences = np.subtract(*(np.log(values) if ratio else values).T)
    mean, error = mean_and_error(differences)
    numbers = np.array([mean, *interval(mean, error, len(differences) - 1)])
    spread = differences.std(ddof=1)
    return {
        "pairs": len(differences), "scale": "ratio" if ratio else "difference",
        **dict(zip(("difference", "lower", "upper"), np.exp(numbers) if ratio else numbers, strict=True)),
        "effect": float(mean / spread) if spread > 0 else np.nan, "p": sign_flip(differences),
    }  # fmt: skip


def _named(runs: Runs[Any]) -> bool:
    """True if trainings have names; numbers alone do not say which trainings belong together."""
    return not all(name == f"run {i + 1}" for i, name in enumerate(runs.names))


def _value(result: Any, measure: str, subset: Subset) -> float:
    """A measure of a subset; NaN where the result has no single number of it."""
    try:
        return float(result[measure].of(subset))
    except (UserError, TypeError):
        return float("nan")


def _order(row: Any) -> str:
    larger = row.difference > (1 if row.scale == "ratio" else 0)
    return f"{row.first} {'>' if larger else '<'} {row.second}"
