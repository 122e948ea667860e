"""Extreme eigenvalues of the Hessian, of the whole loss or of every class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from sharpness.plots import plot_class_values
from sharpness.results.base import Result


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class EigenvalueResult(Result):
    """Eigenvalues in descending order; per class, one row for each class, NaN for a class without samples.

    Attributes:
        values: (m,) or (C, m), with m = k, or 2 k if ``which`` is "both": k largest, then k smallest.
        residuals: like ``values``: ``|H v - value v|``.
        converged: like ``values``, bool.
        vectors: (m, num_parameters) or (C, m, num_parameters), or None if they were not kept.
        hvp_count: Hessian-vector products; of one class count as one, whatever its size.
        sample_products: Hessian-vector products times samples.
    """

    DIMENSIONS: ClassVar = {
        "values": ("class", "rank"),
        "residuals": ("class", "rank"),
        "converged": ("class", "rank"),
        "vectors": ("class", "rank", "parameter"),
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

    def to_frame(self) -> pd.DataFrame:
        """One row per eigenvalue."""
        values = np.atleast_2d(self.values)
        rows, ranks = np.indices(values.shape).reshape(2, -1)
        smallest = np.isin(self.which, ("SA", "both")) & (ranks >= values.shape[1] - self.k)
        return pd.DataFrame(
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

    @classmethod
    def compare(cls, results: Mapping[str, Any], ax: Any = None, end: str = "largest", **options: Any) -> Any:
        """The largest (or smallest) eigenvalue of every class, model beside model."""
        first = next(iter(results.values()))
        order = first.by_size() if first.per_class else np.zeros(1, dtype=int)
        names = [first.class_names[c] for c in order] if first.per_class else ["all classes"]
        values = {label: np.atleast_1d(getattr(r, end))[order] for label, r in results.items()}
        symbol = r"$\lambda_\mathrm{max}$" if end == "largest" else r"$\lambda_\mathrm{min}$"
        return plot_class_values(values, names, ax=ax, ylabel=f"Hessian {symbol}", **options)

    def _summary(self) -> str:
        value = f"{np.nanmin(self.values):.4g} to {np.nanmax(self.values):.4g}"
        missing = int((~self.converged).sum())
        return f"{'per class, ' if self.per_class else ''}eigenvalues {value}, " + (
            "all converged" if not missing else f"{missing} not converged"
        )
