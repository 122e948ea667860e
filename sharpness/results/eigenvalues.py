"""Extreme eigenvalues of the Hessian, of the whole loss, of every class or of every group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd

from sharpness.errors import UserError, choose
from sharpness.results.base import Result
from sharpness.results.comparison import each, first_of, means, spreads, stacked
from sharpness.results.estimates import Estimate, Subset
from sharpness.results.picture import applying, columns_of, picture
from sharpness.results.same import require_same
from sharpness.results.tables import long_form
from sharpness.results.words import in_coordinates, marks_in, named_matrix, near_zero
from sharpness.statistics.estimate import interval
from sharpness.untrusted.refused import Refused

if TYPE_CHECKING:
    from sharpness.results.owners import OwnersResult

#: Smallest share of one image in v'Hv that a note reports.
OWNED = 0.5
#: Ends of the spectrum in mathtext, by the pictures that show them.
SYMBOLS = {
    "largest": r"$\lambda_\mathrm{max}$", "smallest": r"$\lambda_\mathrm{min}$",
    "both": r"$\lambda_\mathrm{min}$ and $\lambda_\mathrm{max}$",
}  # fmt: skip
PICTURES = ("largest", "smallest", "both", "saddle")
#: Functions that compute owners, for results whose objectives are in memory. Weak, because vectors may be large.
OWNERS: WeakKeyDictionary[EigenvalueResult, Callable[..., OwnersResult]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class EigenvalueResult(Result):
    """Eigenvalues in descending order; per class, one row for each class, NaN for a class without samples.

    Attributes:
        values: (m,) or (C, m), with m = k, or 2 k if ``which`` is "both": k largest, then k smallest; with fewer
            parameters than 2 k, m is their number.
        residuals: like ``values``: ``|H v - value v|``.
        converged: like ``values``, bool.
        vectors: (m, num_parameters) or (C, m, num_parameters), or None if they were not kept.
        lower, upper: like ``values``: 95 % bootstrap interval over samples, or None if it was not asked for.
        standard_errors: like ``values``: over samples, of ``v' H v`` with the vector fixed, or None.
        top_share: like ``values``: the share of the most influential sample in the sum of ``a_i |v' H_i v|``; NaN if
            all terms are rounding errors; None without intervals and standard errors.
        products: () or (C,) number of Hessian-vector products, each with all samples of its row; None in old files.
        hvp_count: sum of ``products``.
        sample_products: Hessian-vector products times samples.
    """

    OPTIONAL_DIMENSION: ClassVar = "class"
    AXES: ClassVar = ("end", "rank")
    COMPARED: ClassVar = ("per_class", "which")
    RENAMED: ClassVar = {"errors": "standard_errors"}

    values: Annotated[np.ndarray, "class", "rank"]
    residuals: Annotated[np.ndarray, "class", "rank"]
    converged: Annotated[np.ndarray, "class", "rank"]
    vectors: Annotated[np.ndarray | None, "class", "rank", "parameter"]
    which: str
    k: int
    tol: float
    seed: int
    hvp_count: int
    sample_products: int
    products: Annotated[np.ndarray | None, "class"] = None
    lower: Annotated[np.ndarray | None, "class", "rank"] = None
    upper: Annotated[np.ndarray | None, "class", "rank"] = None
    standard_errors: Annotated[np.ndarray | None, "class", "rank"] = None
    top_share: Annotated[np.ndarray | None, "class", "rank"] = None

    def validate(self) -> None:
        super().validate()
        m, most = self.values.shape[-1], self.k * (1 + (self.which == "both"))
        if self.which not in ("LA", "SA", "both") or not self.k <= m <= most:
            raise Refused("has other eigenvalues than it says: probe again")

    def keys(self) -> tuple[str, ...]:
        """The ends of the spectrum that were asked for."""
        return {"LA": ("lambda_max",), "SA": ("lambda_min",), "both": ("lambda_max", "lambda_min")}[self.which]

    def _estimate(self, name: str, subset: Subset) -> Estimate:
        return self._of_row(self._rows(0 if name == "lambda_max" else -1), subset, self.per_class)

    def _rows(self, column: int) -> np.ndarray:
        """Value, standard error and both ends of the interval of an eigenvalue, (4, C) or (4, 1)."""
        arrays = self.values, _known(self, self.standard_errors), *self.intervals
        return np.stack([np.atleast_2d(array)[:, column] for array in arrays])

    @property
    def ranks(self) -> list[str]:
        """Names of the m eigenvalues, such as ``"lambda_max"``, ``"lambda_max 2"``, ``"lambda_min"``."""
        numbers = ["", *(f" {i}" for i in range(2, self.k + 1))]
        largest, smallest = ([f"lambda_{end}{number}" for number in numbers] for end in ("max", "min"))
        both = largest + smallest[: self.values.shape[-1] - self.k][::-1]
        return {"LA": largest, "SA": smallest[::-1], "both": both}[self.which]

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
        """``max(0, -lambda_min) / lambda_max``, () or (C,): 0 at a minimum, 1 if the loss curves down as much as up.

        Infinite if it curves down in every direction.
        """
        if self.which != "both":
            raise UserError(f"which={self.which!r} has one end of the spectrum: a saddle indicator needs 'both'")
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.maximum(-self.smallest, 0) / self.largest
        return np.where(self.largest < 0, np.inf, ratio)

    @property
    def intervals(self) -> np.ndarray:
        """Lower and upper ends of 95 % intervals (2, ...): from the bootstrap, or Student's from the standard errors.

        Student's are symmetric on a logarithmic scale, since an end of a spectrum keeps its sign. NaN without either.
        """
        if self.lower is not None and self.upper is not None:
            return np.stack([self.lower, self.upper])
        samples = self.class_samples[:, None] if self.per_class else self.class_samples.sum()
        return interval(self.values, _known(self, self.standard_errors), samples - 1, keeps_sign=True)

    def owners(self, epsilon: float | None = None) -> OwnersResult:
        """Compute the classes' shares of these eigenvalues: see :func:`~sharpness.owners`.

        Args:
            epsilon: distance along the eigenvectors at which accuracies are compared, see :func:`~sharpness.owners`.

        Raises:
            UserError: eigenvalues of single classes, without vectors, or loaded from a file (without a model).
        """
        if self.per_class:
            raise UserError("owners are of the whole loss, and these eigenvalues of every row: take per_class=False")
        if self not in OWNERS:
            raise UserError(
                "the model of these eigenvalues is not at hand, as of results from files or without vectors: call "
                "sharpness.owners(objective, k=10)"
            )
        return OWNERS[self](self, epsilon)

    def _frame(self) -> pd.DataFrame:
        """One row per eigenvalue."""
        values = np.atleast_2d(self.values)
        rows, ranks = np.indices(values.shape).reshape(2, -1)
        smallest = ranks >= (0 if self.which == "SA" else self.k)
        frame = pd.DataFrame([self.row(int(i) if self.per_class else None) for i in rows])
        frame["end"] = np.where(smallest, "smallest", "largest")
        frame["rank"] = np.where(smallest, values.shape[1] - ranks, ranks + 1)
        lower, upper = (None, None) if self.standard_errors is None and self.lower is None else self.intervals
        columns = {
            "eigenvalue": self.values, "eigenvalue_se": self.standard_errors, "eigenvalue_lower": lower,
            "eigenvalue_upper": upper, "top_share": self.top_share, "residual": self.residuals,
            "converged": self.converged,
        }  # fmt: skip
        for name, numbers in columns.items():
            if numbers is not None:
                frame[name] = np.ravel(numbers)
        if self.products is not None:
            frame["products"] = np.atleast_1d(self.products)[rows].astype(int)
        return frame

    def _long(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The long form, with measures named by the end of the spectrum, as in tables of several measures."""
        found = long_form(frame, ["eigenvalue"], self.AXES)
        return found.assign(measure=np.where(found["end"] == "smallest", "lambda_min", "lambda_max"))

    @property
    def over(self) -> str:
        """The source of variation of the intervals, in words."""
        return "images" if self.lower is None else f"images ({self.provenance.get('bootstrap', 'some')} resamples)"

    def notes_on(self, frame: pd.DataFrame) -> list[str]:
        """Notes on the marks of a table, and on eigenvalues dominated by a single image."""
        notes = marks_in(frame, {"eigenvalue": self.over})
        if "top_share" not in frame:
            return notes
        owned = frame[(frame.top_share >= OWNED) & (frame.samples > 1)]
        ends = owned["end"] + (" " + owned["rank"].astype(str) if self.k > 1 else "")
        shares = zip(owned["class"], ends, owned.top_share, strict=True)
        few = [f"{name} ({end}: {100 * share:.0f} %)" for name, end, share in shares]
        return notes + ([f"one image makes half of v'Hv or more: {', '.join(few)}"] if few else [])

    @picture("plot_spectrum_ends", "plot_class_values", classes=True)
    def compare(cls, results: Mapping[str, Any], ax: Any = None, end: str | None = None, **options: Any) -> Any:
        """Draw the eigenvalues of every class, from most to fewest samples, with models side by side.

        For several trainings, mean and spread are drawn; intervals over images are averages of single trainings.

        Args:
            end: "largest", "smallest", "both" ends in one picture, or the "saddle" indicator; by default the ends that
                were computed.
        """
        from sharpness.plots import plot_class_values, plot_saddle_indicator, plot_spectrum_ends

        require_same(each(results), cls.COMPARED, shared=())
        first = first_of(results)
        end_of = {"LA": "largest", "SA": "smallest", "both": "both"}
        end = end or end_of[first.which]
        choose("end of the spectrum to draw", end, PICTURES if first.which == "both" else (end_of[first.which],))
        order, names = columns_of(first)

        def at(column: int, of: Any) -> Any:
            return lambda r: np.atleast_2d(of(r))[order, column]

        def details(column: int) -> dict[str, Any]:
            """Intervals, flags of doubtful and of unconverged values, and the values of all trainings."""
            found: dict[str, Any] = {"trainings": spreads(results, at(column, lambda r: r.values))}
            rows = means(results, lambda r: r._rows(column)[:, order])
            if any(r.lower is not None or r.standard_errors is not None for r in each(results).values()):
                found["intervals"] = {label: row[2:] for label, row in rows.items()}
            found["doubtful"] = {label: near_zero(values, errors) for label, (values, errors, *_) in rows.items()}
            # The mean over trainings is not converged if one of them is not.
            flags = stacked(results, at(column, lambda r: ~r.converged & np.isfinite(r.values)))
            return found | {"flags": {label: f.reshape(-1, len(order)).any(axis=0) for label, f in flags.items()}}

        if end == "saddle":
            ratios, trainings = (of(results, lambda r: np.atleast_1d(r.saddle)[order]) for of in (means, spreads))
            options = applying(plot_saddle_indicator, {"trainings": trainings, **options})
            return plot_saddle_indicator(ratios, names, ax, **options)
        columns = {"largest": (0,), "smallest": (-1,), "both": (0, -1)}[end]
        values: list[Any] = [means(results, at(column, lambda r: r.values)) for column in columns]
        found = [details(column) for column in columns]
        matrix, where = named_matrix(first.provenance), in_coordinates(first.provenance)
        settings = {"ylabel": f"{matrix} {SYMBOLS[end]}{where}", "over": first.over}
        if end == "both":
            pairs = {name: tuple(one[name] for one in found) for name in found[0]}
            options = applying(plot_spectrum_ends, {**settings, **pairs, **options})
            return plot_spectrum_ends(values[0], values[1], names, ax, **options)
        return plot_class_values(values[0], names, ax, **{**settings, **found[0], **options})

    def _summary(self) -> str:
        value = f"{np.nanmin(self.values):.4g} to {np.nanmax(self.values):.4g}"
        missing = int((~self.converged & np.isfinite(self.values)).sum())
        return f"{'per class, ' if self.per_class else ''}eigenvalues {value}, " + (
            "all converged" if not missing else f"{missing} not converged"
        )


def _known(result: EigenvalueResult, bound: np.ndarray | None) -> np.ndarray:
    """A bound, or NaN, which draws no bar, if it was not computed."""
    return np.full_like(result.values, np.nan) if bound is None else bound
