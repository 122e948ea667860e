"""The spectral density of the Hessian, of the whole loss or of every class."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd

from sharpness.errors import UserError
from sharpness.results.base import Result
from sharpness.results.comparison import each, first_of, trainings_of
from sharpness.results.estimates import Estimate, Subset, mean_of
from sharpness.results.picture import Later, picture
from sharpness.results.same import require_same
from sharpness.results.words import in_coordinates, marks_in, named_matrix
from sharpness.statistics.estimate import interval
from sharpness.statistics.quadrature import DensityCurve, SpectralQuadrature
from sharpness.untrusted.refused import Refused

#: The trace, and the shares of the spectrum beyond a hundredth of the largest modulus.
NAMES = ("trace", "share_below_-1%", "share_above_1%")


def _smoothing_by_its_old_name(compare: Later) -> Later:
    """Read a ``width`` that no figure can have, below an inch or with Axes, as what is now ``smoothing``."""

    def make() -> Callable[..., Any]:
        from sharpness.plots.options import LEAST

        drawn = compare.make()

        @functools.wraps(drawn)
        def compare_with_width(cls: Any, results: Any, ax: Any = None, *args: Any, **options: Any) -> Any:
            width = options.get("width")
            if isinstance(width, Real) and (width < LEAST or ax is not None) and "smoothing" not in options:
                told = "plot(width=) of a density is now plot(smoothing=): the old name goes with the next version"
                warnings.warn(told, FutureWarning, stacklevel=3)
                options["smoothing"] = options.pop("width")
            return drawn(cls, results, ax, *args, **options)

        return compare_with_width

    return Later(make, of_class=True)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class SpectralDensityResult(Result):
    """Quadrature rules of the spectrum, from which densities, masses and moments follow without new products.

    Attributes:
        nodes: (runs, steps) or (C, runs, steps) Ritz values, padded with NaN.
        weights: weights of the nodes, same shape; those of a run sum to 1.
        products: () or (C,) Hessian-vector products.
        sample_products: Hessian-vector products times samples.
    """

    OPTIONAL_DIMENSION: ClassVar = "class"
    COMPARED: ClassVar = ("per_class",)

    nodes: Annotated[np.ndarray, "class", "run", "node"]
    weights: Annotated[np.ndarray, "class", "run", "node"]
    products: Annotated[np.ndarray, "class"]
    sample_products: int

    def validate(self) -> None:
        super().validate()
        if "num_parameters" not in self.provenance:
            raise Refused("does not count the parameters: probe again")

    def keys(self) -> tuple[str, ...]:
        return NAMES

    def _estimate(self, name: str, subset: Subset) -> Estimate:
        if self.per_class and isinstance(subset, str) and subset in self.groups:
            classes = [c for c in self.classes_of(subset) if self.products[c]]  # type: ignore[union-attr]
            # Classes share the random vectors.
            return mean_of([self._estimate(name, c) for c in classes], independent=False)
        if self.per_class and subset is None:
            raise UserError("of(None): this spectrum is of every class: name one, or ask for per_class=False")
        if self.per_class and not self.products[self.classes_of(subset)]:  # type: ignore[arg-type]
            return Estimate(np.nan)  # a class without samples
        rule = self.quadrature(subset)
        edge = 0.01 * float(np.nanmax(np.abs(rule.nodes)))
        value, error = {
            "trace": lambda: tuple(rule.size * moment for moment in rule.moment(1)),
            "share_below_-1%": lambda: rule.mass(-np.inf, -edge),
            "share_above_1%": lambda: rule.mass(edge, np.inf),
        }[name]()
        return Estimate(value, error, *interval(value, error, len(rule.nodes) - 1, keeps_sign=name != "trace").tolist())

    @property
    def per_class(self) -> bool:
        return self.nodes.ndim == 3

    def quadrature(self, subset: str | int | None = None) -> SpectralQuadrature:
        """The quadrature rules for all samples, or for a class (name or index): density, mass, moments, cumulative.

        Raises:
            UserError: an unknown class, a class without samples, or a result without classes.
        """
        size = int(self.provenance["num_parameters"])
        if not self.per_class:
            if subset is not None:
                raise UserError(f"{subset!r}: this density is of all samples; ask for per_class=True")
            return SpectralQuadrature(self.nodes, self.weights, size, int(self.products))
        if subset is None:
            subset = self.rarest_class
        index = self.classes_of(subset)
        if not isinstance(index, int):
            raise UserError(
                f"{subset!r} is a group: choose one class of it, {', '.join(self.class_names[c] for c in index)}"
            )
        if not self.products[index]:
            raise UserError(f"class {self.class_names[index]} has no samples here, so no spectrum")
        return SpectralQuadrature(self.nodes[index], self.weights[index], size, int(self.products[index]))

    def density(
        self, subset: str | int | None = None, grid: np.ndarray | None = None, width: float | None = None
    ) -> DensityCurve:
        """The density (total mass 1), smoothed with a Gaussian of this width; per class, by default the rarest."""
        return self.quadrature(subset).density(grid, width)

    def _frame(self) -> pd.DataFrame:
        """One row for all samples or for each class: moments and shares of the spectrum with their standard errors."""
        return pd.DataFrame([self._numbers(c) for c in (range(len(self.class_names)) if self.per_class else [None])])

    def _numbers(self, c: int | None) -> dict[str, Any]:
        row = {**self.row(c), "products": int(self.products if c is None else self.products[c])}
        if not row["products"]:
            return row
        rule = self.quadrature(c)
        row |= {"lowest": float(np.nanmin(rule.nodes)), "highest": float(np.nanmax(rule.nodes))}
        for name in NAMES:
            row |= self._estimate(name, c).columns(name)
        return row

    def notes_on(self, frame: pd.DataFrame) -> list[str]:
        return marks_in(frame, dict.fromkeys(NAMES, f"{self.nodes.shape[-2]} random vectors"))

    @_smoothing_by_its_old_name
    @picture("plot_density", without={"log": "densities are always on a logarithmic axis, leave it out"})
    def compare(
        cls,
        results: Mapping[str, Any],
        ax: Any = None,
        of: str | int | None = None,
        smoothing: float | None = None,
        **options: Any,
    ) -> Any:
        """Draw densities with 95 % bands on a logarithmic axis, equally smoothed; marks are the extreme Ritz values.

        For several trainings, the curve is their mean and the band one standard deviation over them; the marks are
        those of all trainings.

        Args:
            of: class of a result per class; by default the rarest.
            smoothing: width of the Gaussian; by default the largest default width of the results.
        """
        from sharpness.plots import plot_density

        require_same(each(results), cls.COMPARED, shared=())
        rules = {label: [r.quadrature(of) for r in trainings_of(entry)] for label, entry in results.items()}
        # One width for all models, and one grid for the trainings of each: curves are compared, and averaged, by point.
        width = smoothing
        if width is None:
            width = max(q.density().width for of_model in rules.values() for q in of_model)
        curves, trainings, ends = {}, {}, {}
        for label, of_model in rules.items():
            # All are multiples of half the width. Evenly spaced points would miss narrow peaks of a wide spectrum.
            grid = np.unique(np.concatenate([q.density(width=width).grid for q in of_model]))
            if len(of_model) > 1:
                trainings[label] = np.stack([q.density(grid, width).density for q in of_model])
            found = [q.density(grid, width) for q in of_model]
            mean = [np.mean([getattr(c, name) for c in found], axis=0) for name in ("density", "lower", "upper")]
            curves[label] = (grid, mean[0], mean[1], mean[2])
            ends[label] = np.ravel([(np.nanmin(q.nodes), np.nanmax(q.nodes)) for q in of_model])
        told = first_of(results).provenance
        xlabel = f"{named_matrix(told)} eigenvalue{in_coordinates(told)}"
        return plot_density(curves, ax, **{"marks": ends, "trainings": trainings, "xlabel": xlabel, **options})

    def _summary(self) -> str:
        runs, steps = self.nodes.shape[-2:]
        low, high = np.nanmin(self.nodes), np.nanmax(self.nodes)
        return f"{'per class, ' if self.per_class else ''}{runs} runs of {steps} steps, from {low:.4g} to {high:.4g}"
