"""Extreme eigenvalues of the Hessian, of the whole loss, of every class or of every group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from sharpness.errors import UserError, choose
from sharpness.plots import plot_class_values, plot_saddle_indicator, plot_spectrum_ends
from sharpness.results.base import Result
from sharpness.results.comparison import each, first_of, means, spreads, stacked
from sharpness.results.same import require_same

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
        errors: like ``values``: standard error over samples, or None if it was not asked for.
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
        if self.errors is not None:
            frame.insert(6, "se", np.atleast_2d(self.errors).ravel())
        if self.lower is not None and self.upper is not None:
            frame.insert(6, "lower", np.atleast_2d(self.lower).ravel())
            frame.insert(7, "upper", np.atleast_2d(self.upper).ravel())
        return frame

    @classmethod
    def compare(cls, results: Mapping[str, Any], ax: Any = None, end: str | None = None, **options: Any) -> Any:
        """Eigenvalues of every class, model beside model, from most to fewest samples.

        Of several trainings mean and spread; intervals over images are those of one training, on average.

        Args:
            end: "largest", "smallest", "both" ends in one picture, or the "saddle" indicator; what was asked for
                unless given.
        """
        require_same(each(results), shared=())
        first = first_of(results)
        end_of = {"LA": "largest", "SA": "smallest", "both": "both"}
        end = end or end_of[first.which]
        choose("end of the spectrum to draw", end, PICTURES if first.which == "both" else (end_of[first.which],))
        order = first.by_size() if first.per_class else np.zeros(1, dtype=int)
        names = [first.class_names[c] for c in order] if first.per_class else ["all classes"]

        def at(column: int, of: Any) -> Any:
            return lambda r: np.atleast_2d(of(r))[order, column]

        def details(column: int) -> tuple[Any, Any]:
            intervals = None
            if any(r.lower is not None for r in each(results).values()):
                lower = means(results, at(column, lambda r: _known(r, r.lower)))
                upper = means(results, at(column, lambda r: _known(r, r.upper)))
                intervals = {label: np.stack([lower[label], upper[label]]) for label in results}
            flags = stacked(results, at(column, lambda r: ~r.converged & np.isfinite(r.values)))
            return intervals, {label: f.reshape(-1, len(order)).any(axis=0) for label, f in flags.items()}

        if end == "saddle":
            ratios = means(results, lambda r: np.atleast_1d(r.saddle)[order])
            trainings: Any = spreads(results, lambda r: np.atleast_1d(r.saddle)[order])
            return plot_saddle_indicator(ratios, names, ax, **{"trainings": trainings, **options})
        largest, smallest = (means(results, at(column, lambda r: r.values)) for column in (0, -1))
        trainings = tuple(spreads(results, at(column, lambda r: r.values)) for column in (0, -1))
        if end == "both":
            (above, open_above), (below, open_below) = details(0), details(-1)
            pair = (above, below) if above is not None else None
            shared = {"trainings": trainings, "flags": (open_above, open_below), "intervals": pair}
            return plot_spectrum_ends(largest, smallest, names, ax, **{**shared, **options})
        intervals, flags_one = details(0 if end == "largest" else -1)
        symbol = r"$\lambda_\mathrm{max}$" if end == "largest" else r"$\lambda_\mathrm{min}$"
        return plot_class_values(
            largest if end == "largest" else smallest,
            names,
            ax,
            intervals=intervals,
            trainings=trainings[0 if end == "largest" else 1],
            flags=flags_one,
            **{"ylabel": f"Hessian {symbol}", **options},
        )

    def _summary(self) -> str:
        value = f"{np.nanmin(self.values):.4g} to {np.nanmax(self.values):.4g}"
        missing = int((~self.converged & np.isfinite(self.values)).sum())
        return f"{'per class, ' if self.per_class else ''}eigenvalues {value}, " + (
            "all converged" if not missing else f"{missing} not converged"
        )


def _known(result: EigenvalueResult, bound: np.ndarray | None) -> np.ndarray:
    """A bound, or NaN, which draws no bar, where none was asked for."""
    return np.full_like(result.values, np.nan) if bound is None else bound
