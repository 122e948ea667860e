"""Rank correlation of measures of sharpness with accuracy and generalization gap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sharpness.errors import UserError, choose

#: Outcomes that measures are correlated with: accuracy on test images, and training minus test accuracy.
OUTCOMES = ("accuracy", "gap")


def of_all_samples(frame: pd.DataFrame) -> pd.Series:
    """True for the rows of all samples together. A class of a group may be called "all", too."""
    return frame["class"].eq("all") & frame["group"].eq("")


def weighted_tau(signs: tuple[np.ndarray, np.ndarray], counts: np.ndarray) -> np.ndarray:
    r"""Kendall's :math:`\tau_b` of samples with repetitions, from the signs of differences of all pairs.

    .. math:: \tau_b = \frac{\sum_{i<j} c_i c_j s_{ij} t_{ij}}
        {\sqrt{\sum_{i<j} c_i c_j s_{ij}^2 \sum_{i<j} c_i c_j t_{ij}^2}}

    with :math:`s_{ij} = \operatorname{sgn}(x_i - x_j)`, t the same for y, and row i taken :math:`c_i` times. Signs of
    pairs that are not compared are 0; with pairs inside strata only, this is the stratified (partial) coefficient.

    Args:
        signs: s and t, (n, n) each, antisymmetric.
        counts: (B, n), one row for each sample.

    Returns:
        (B,); NaN where x or y is the same in all pairs.

    >>> x, y = np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])
    >>> signs = tuple(np.sign(v[:, None] - v) for v in (x, y))
    >>> weighted_tau(signs, np.ones((1, 3))).round(4).tolist()
    [0.3333]
    """
    s, t = signs
    return quotient(*(((counts @ (a * b)) * counts).sum(axis=1) for a, b in ((s, t), (s, s), (t, t))))


def quotient(agreeing: np.ndarray, of_x: np.ndarray, of_y: np.ndarray) -> np.ndarray:
    r""":math:`\tau_b` from its three sums over pairs, (B,) each; NaN if one below the root is 0.

    >>> quotient(np.array([1.0]), np.array([3.0]), np.array([3.0])).round(4).tolist()
    [0.3333]
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return agreeing / np.sqrt(of_x * of_y)


def stratified_tau(
    x: np.ndarray,
    y: np.ndarray,
    strata: np.ndarray,
    units: np.ndarray,
    resamples: int,
    seed: int,
    given: np.ndarray | None = None,
) -> tuple[float, float, float]:
    r"""Kendall's :math:`\tau_b` over the pairs inside strata, with a 95 % interval of the bootstrap over units.

    A drawn unit includes all its rows, such as the classes of one checkpoint, because these are not independent. The
    percentile interval is NaN with fewer than four units, which have too few distinct resamples. With ``given`` z, the
    result is Kendall's partial coefficient,

    .. math:: \tau_{xy \cdot z} = \frac{\tau_{xy} - \tau_{xz} \tau_{yz}}{\sqrt{(1 - \tau_{xz}^2)(1 - \tau_{yz}^2)}},

    NaN if x or y has the order of z, because nothing is left to correlate.

    Args:
        x, y: (n,), finite.
        strata: (n,) pairs of rows are compared where these are equal.
        units: (n,) units that are drawn with replacement.
        given: z, (n,), finite.

    >>> stratified_tau(np.arange(4.0), np.arange(4.0), np.zeros(4), np.arange(4), 0, 0)
    (1.0, nan, nan)
    """
    names, unit = np.unique(units, return_inverse=True)
    parts = [np.flatnonzero(strata == one) for one in np.unique(strata)]
    parts = [part[np.argsort(unit[part], kind="stable")] for part in parts]

    def coefficient(a: np.ndarray, b: np.ndarray, counts: np.ndarray) -> np.ndarray:
        sums = np.zeros((3, len(counts)))
        for part in parts:  # pairs of all rows would be a matrix too large for checkpoints of a thousand classes
            s, t = (np.sign(v[part, None] - v[part]) for v in (a, b))
            there, starts = np.unique(unit[part], return_index=True)
            for total, pairs in zip(sums, (s * t, s * s, t * t), strict=True):
                # Rows of one unit are drawn together: their pairs are added up first. Integers, hence exactly.
                between = np.add.reduceat(np.add.reduceat(pairs, starts, axis=0), starts, axis=1)
                total += ((counts[:, there] @ between) * counts[:, there]).sum(axis=1)
        return quotient(*sums)

    def value(counts: np.ndarray) -> np.ndarray:
        tau = coefficient(x, y, counts)
        if given is None:
            return tau
        with_x, with_y = (coefficient(v, given, counts) for v in (x, y))
        # If x or y has the order of z, the denominator is a rounding error, and the quotient arbitrary.
        left = (1 - with_x**2) * (1 - with_y**2)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(left > 1e-12, (tau - with_x * with_y) / np.sqrt(left), np.nan)

    found = float(value(np.ones((1, len(names))))[0])
    if len(names) < 4 or not resamples or not np.isfinite(found):
        return found, np.nan, np.nan
    draw = np.random.default_rng(seed)
    counts = draw.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    low, high = np.nanquantile(value(counts.astype(float)), (0.025, 0.975))
    return found, float(low), float(high)


@dataclass(frozen=True, eq=False)
class Correlations:
    """Rank correlations, as computed by :func:`sharpness.correlate`.

    Attributes:
        rows: the table of :meth:`to_frame`.
        points: the correlated data: one row per checkpoint and subset (all samples, a group or a class), with all
            measures and outcomes.
        titles: titles of measures, for plots.
    """

    rows: pd.DataFrame
    points: pd.DataFrame
    titles: Mapping[str, str]

    def to_frame(self) -> pd.DataFrame:
        """One row for each measure, outcome, and set of pairs.

        Columns: ``measure``, ``outcome``, ``over`` (``"checkpoints"`` or ``"classes"``), ``subset`` (all samples, a
            group, or every class), ``given`` (``"model"`` if only pairs of the same model are compared, or the column
            that a partial coefficient controls for), ``tau``, ``tau_lower``, ``tau_upper`` (95 %, NaN with too few
            checkpoints), ``rows``.
        """
        return self.rows.copy()

    def of(self, measure: str, outcome: str = "accuracy", over: str = "checkpoints", given: str = "") -> pd.Series:
        """One row of the table, for all samples or for every class.

        Raises:
            UserError: there is none.
        """
        found = self.rows
        for key, value in {"measure": measure, "over": over, "outcome": outcome, "given": given}.items():
            choose(key, value, list(dict.fromkeys(found[key])))
            found = found[found[key] == value]
        return found.iloc[0]

    def __str__(self) -> str:
        return self.rows.to_string(index=False, float_format=lambda v: f"{v:.2f}", na_rep="-")

    def _repr_html_(self) -> str:
        return self.rows.to_html(index=False, float_format=lambda v: f"{v:.2f}", na_rep="-", escape=True)

    def plot(self, over: str = "checkpoints", **options: Any) -> Any:
        """Plot a dot per checkpoint (or checkpoint and class), in one panel per measure and outcome.

        Args:
            over: ``"checkpoints"`` (values for all samples) or ``"classes"``.
            options: those of every picture, see :class:`~sharpness.plots.PlotOptions`; ``order`` must name all models.

        Raises:
            UserError: an unknown option, a value out of range, or no coefficient over these.
        """
        from sharpness.plots.options import COMMON, looks_of
        from sharpness.plots.scatter import plot_scatter

        if unknown := options.keys() - set(COMMON):
            raise UserError(f"plot has no option {min(unknown)!r}: it takes over, {', '.join(COMMON)}")
        choose("over", over, list(dict.fromkeys(self.rows["over"])))
        looks, shown = looks_of(options, list(dict.fromkeys(self.points["model"])), "model")
        self.require_every(looks.order)
        points = self.points.sort_values("model", key=lambda column: column.map(list(shown).index), kind="stable")
        points = points.assign(model=points["model"].map(shown))
        points = points[of_all_samples(points) == (over == "checkpoints")]
        rows = self.rows[(self.rows["over"] == over) & (self.rows["given"] == "")]
        if over == "checkpoints":
            rows = rows[rows["subset"] == "all"]
        taus = {
            (row.measure, row.outcome): (row.tau, row.tau_lower, row.tau_upper) for row in rows.itertuples(index=False)
        }
        with looks.in_force():
            return plot_scatter(points, taus, self.titles, ax=looks.ax, title=looks.title, log=looks.log)

    def require_every(self, order: Sequence[str] | None) -> None:
        """Refuse an order that leaves models out, whose dots the coefficients of the plot include.

        Raises:
            UserError: names the models that are missing.
        """
        if left_out := [name for name in dict.fromkeys(self.points["model"]) if name not in (order or [name])]:
            raise UserError(
                f"order leaves out {', '.join(left_out)}, but the coefficients are those of all models: name all, or "
                "correlate a table without these"
            )

    def caption(self, over: str = "checkpoints") -> dict[str, str]:
        """The caption of the plot, by headings; a table of a single model may not name it."""
        points = self.points[of_all_samples(self.points) == (over == "checkpoints")]
        each = "checkpoint" if over == "checkpoints" else "class of a checkpoint"
        models = ", ".join(filter(None, dict.fromkeys(points["model"])))
        drawn = "classes" if len(self.points[["model", "run"]].drop_duplicates()) == 1 else "checkpoints"
        return {
            "Shows": f"{' and '.join(dict.fromkeys(self.rows['outcome']))} against measures, a dot for each {each}",
            **({"Models": models} if models else {}),
            "Errors": f"tau is Kendall's rank correlation, in brackets its 95 % interval: a bootstrap over {drawn}",
        }
