"""Extreme eigenvalues of the Hessian, of the whole loss, of every class or of every group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from sharpness.curvature import interval
from sharpness.errors import UserError, choose
from sharpness.plots import plot_class_values, plot_saddle_indicator, plot_spectrum_ends
from sharpness.results.base import Result
from sharpness.results.words import near_zero, notes_on, with_errors

#: A share of one image in v'Hv from which on a note says so.
OWNED = 0.5
PICTURES = ("largest", "smallest", "both", "saddle")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class EigenvalueResult(Result):
    """Eigenvalues in descending order; per class, one row for each class, NaN for a class without samples.

    Attributes:
        values: (m,) or (C, m), with m = k, or 2 k if ``which`` is "both": k largest, then k smallest.
        residuals: like ``values``: ``|H v - value v|``.
        converged: like ``values``, bool.
        vectors: (m, num_parameters) or (C, m, num_parameters), or None if they were not kept.
        lower, upper: like ``values``: 95 % bootstrap interval over samples, or None if it was not asked for.
        errors: like ``values``: standard error over samples of ``v' H v`` with the vector fixed, or None likewise.
        top_share: like ``values``: the part of the most influential sample in the sum of ``a_i |v' H_i v|``, None with
            neither of them.
        products: () or (C,) Hessian-vector products, each with all samples of its row; None in files of old.
        hvp_count: their sum.
        sample_products: Hessian-vector products times samples.
    """

    DIMENSIONS: ClassVar = {
        "values": ("class", "rank"),
        "residuals": ("class", "rank"),
        "converged": ("class", "rank"),
        "vectors": ("class", "rank", "parameter"),
        "lower": ("class", "rank"),
        "upper": ("class", "rank"),
        "errors": ("class", "rank"),
        "top_share": ("class", "rank"),
        "products": ("class",),
    }

    values: np.ndarray
    residuals: np.ndarray
    converged: np.ndarray
    vectors: np.ndarray | None
    which: str
    k: int
    tol: float
    seed: int
    hvp_count: int
    sample_products: int
    products: np.ndarray | None = None
    lower: np.ndarray | None = None
    upper: np.ndarray | None = None
    errors: np.ndarray | None = None
    top_share: np.ndarray | None = None

    @property
    def per_class(self) -> bool:
        return self.values.ndim == 2

    @property
    def largest(self) -> np.ndarray:
        """The largest eigenvalue: () or (C,)."""
        return self.values[..., 0]

    @property
    def smallest(self) -> np.ndarray:
        """The smallest eigenvalue that was asked for: () or (C,)."""
        return self.values[..., -1]

    @property
    def saddle(self) -> np.ndarray:
        """``max(0, -lambda_min) / lambda_max``, () or (C,): 0 at a minimum, 1 if the loss bends down as much as up.

        Infinite where it bends down in every direction.
        """
        if self.which != "both":
            raise UserError(f"which={self.which!r} has one end of the spectrum: a saddle indicator needs 'both'")
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.maximum(-self.smallest, 0) / self.largest
        return np.where(self.largest < 0, np.inf, ratio)

    @property
    def intervals(self) -> np.ndarray:
        """Lower and upper ends of intervals of 95 % (2, ...): the bootstrap's, or Student's from the standard errors.

        The latter are symmetric on a logarithmic scale: an end of a spectrum keeps its sign. NaN with neither.
        """
        if self.lower is not None and self.upper is not None:
            return np.stack([self.lower, self.upper])
        samples = self.class_samples[:, None] if self.per_class else self.class_samples.sum()
        return interval(self.values, _known(self, self.errors), samples - 1, keeps_sign=True)

    def to_frame(self) -> pd.DataFrame:
        """One row per eigenvalue."""
        values = np.atleast_2d(self.values)
        rows, ranks = np.indices(values.shape).reshape(2, -1)
        smallest = np.isin(self.which, ("SA", "both")) & (ranks >= values.shape[1] - self.k)
        frame = pd.DataFrame(
            {
                "class": [self.class_names[i] if self.per_class else "all" for i in rows],
                "group": [self.group_of(int(i)) if self.per_class else "" for i in rows],
                "samples": [int(self.class_samples[i] if self.per_class else self.class_samples.sum()) for i in rows],
                "end": np.where(smallest, "smallest", "largest"),
                "rank": np.where(smallest, values.shape[1] - ranks, ranks + 1),
                "value": values.ravel(),
                "residual": np.atleast_2d(self.residuals).ravel(),
                "converged": np.atleast_2d(self.converged).ravel(),
            }
        )
        if self.products is not None:
            frame["products"] = np.atleast_1d(self.products)[rows].astype(int)
        beside = {"se": self.errors, "lower": self.lower, "upper": self.upper, "top_share": self.top_share}
        for place, (name, numbers) in enumerate((n, v) for n, v in beside.items() if v is not None):
            frame.insert(6 + place, name, np.atleast_2d(numbers).ravel())
        return frame

    def to_table(self) -> pd.DataFrame:
        """The same to be read, values with their intervals in one column."""
        return with_errors(self._of_value())

    @property
    def notes(self) -> list[str]:
        """What brackets and rings mean, and which eigenvalues are those of one image above all."""
        notes = notes_on(self._of_value(), {"value": "images (bootstrap)" if self.lower is not None else "images"})
        if self.top_share is None:
            return notes
        frame = self.to_frame()
        few = [
            f"{row['class']} ({row['end']}{f' {row.rank}' if self.k > 1 else ''}, {100 * row.top_share:.0f} %)"
            for _, row in frame[(frame.top_share >= OWNED) & (frame.samples > 1)].iterrows()
        ]
        if few:
            notes.append(f"one image makes half of v'Hv or more: {', '.join(few)}")
        return notes

    def _of_value(self) -> pd.DataFrame:
        return self.to_frame().rename(columns={name: f"value_{name}" for name in ("se", "lower", "upper")})

    @classmethod
    def compare(cls, results: Mapping[str, Any], ax: Any = None, end: str | None = None, **options: Any) -> Any:
        """Eigenvalues of every class, model beside model, from most to fewest samples.

        Args:
            end: "largest", "smallest", "both" ends in one picture, or the "saddle" indicator; what was asked for
                unless given.
        """
        first = next(iter(results.values()))
        end_of = {"LA": "largest", "SA": "smallest", "both": "both"}
        end = end or end_of[first.which]
        choose("end of the spectrum to draw", end, PICTURES if first.which == "both" else (end_of[first.which],))
        order = first.by_size() if first.per_class else np.zeros(1, dtype=int)
        names = [first.class_names[c] for c in order] if first.per_class else ["all classes"]

        def gather(column: int, of: Any) -> dict[str, np.ndarray]:
            return {label: np.atleast_2d(of(r))[order, column] for label, r in results.items()}

        def details(column: int) -> tuple[Any, Any, Any]:
            """Intervals, which values could be zero, and which have not converged."""
            bounded = any(r.lower is not None or r.errors is not None for r in results.values())
            sides = [gather(column, lambda r, side=side: r.intervals[side]) for side in (0, 1)]
            intervals = {label: np.stack([side[label] for side in sides]) for label in results} if bounded else None
            doubtful = gather(column, lambda r: near_zero(r.values, _known(r, r.errors)))
            return intervals, doubtful, gather(column, lambda r: ~r.converged & np.isfinite(r.values))

        if end == "saddle":
            ratios = {label: np.atleast_1d(r.saddle)[order] for label, r in results.items()}
            return plot_saddle_indicator(ratios, names, ax, **options)
        largest, smallest = gather(0, lambda r: r.values), gather(-1, lambda r: r.values)
        over = "images" if first.lower is None else "images (bootstrap)"
        if end == "both":
            above, below = details(0), details(-1)
            pairs = [(a, b) if a is not None else None for a, b in zip(above, below, strict=True)]
            settings = dict(zip(("intervals", "doubtful", "flags"), pairs, strict=True))
            return plot_spectrum_ends(largest, smallest, names, ax, **{**settings, "over": over, **options})
        settings = dict(zip(("intervals", "doubtful", "flags"), details(0 if end == "largest" else -1), strict=True))
        symbol = r"$\lambda_\mathrm{max}$" if end == "largest" else r"$\lambda_\mathrm{min}$"
        values = largest if end == "largest" else smallest
        look = {"ylabel": f"Hessian {symbol}", "over": over}
        return plot_class_values(values, names, ax, **{**settings, **look, **options})

    def _summary(self) -> str:
        value = f"{np.nanmin(self.values):.4g} to {np.nanmax(self.values):.4g}"
        missing = int((~self.converged & np.isfinite(self.values)).sum())
        return f"{'per class, ' if self.per_class else ''}eigenvalues {value}, " + (
            "all converged" if not missing else f"{missing} not converged"
        )


def _known(result: EigenvalueResult, bound: np.ndarray | None) -> np.ndarray:
    """A bound, or NaN, which draws no bar, where none was asked for."""
    return np.full_like(result.values, np.nan) if bound is None else bound
