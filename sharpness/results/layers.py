"""Curvature of every layer and class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd

from sharpness.errors import UserError
from sharpness.renamed import warn_renamed
from sharpness.results.base import Result
from sharpness.results.comparison import each, first_of, means
from sharpness.results.estimates import Estimate, Subset
from sharpness.results.picture import columns_of, heat_maps, picture
from sharpness.results.same import require_same
from sharpness.results.tables import long_form
from sharpness.results.words import marks_in, named_matrix
from sharpness.untrusted.refused import Refused


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class LayerResult(Result):
    """A measure of the Hessian's diagonal blocks, one block per layer.

    Attributes:
        measure: ``"lambda_max"``, ``"lambda_min"`` or ``"trace"``.
        layers: names of the L layers, in the order of the network.
        layer_parameters: (L,) parameters of each.
        values: (L, C), or (L, 1) of all classes together; NaN for a class without samples.
        residuals: like ``values``: ``|H v - value v|`` of eigenvalues, None for traces.
        standard_errors: like ``values``: of traces, over images or random vectors, None for eigenvalues.
        lower, upper: like ``values``: ends of Student's 95 % intervals; None for eigenvalues and in old files.
        converged: like ``values``, bool.
        per_class: whether the columns are classes.
        sample_products: Hessian-vector products times samples.
    """

    AXES: ClassVar = ("layer",)
    COMPARED: ClassVar = ("measure", "per_class")

    measure: str
    layers: tuple[str, ...]
    layer_parameters: Annotated[np.ndarray, "layer"]
    values: Annotated[np.ndarray, "layer", "column"]
    converged: Annotated[np.ndarray, "layer", "column"]
    per_class: bool
    sample_products: int
    residuals: Annotated[np.ndarray | None, "layer", "column"] = None
    standard_errors: Annotated[np.ndarray | None, "layer", "column"] = None
    lower: Annotated[np.ndarray | None, "layer", "column"] = None
    upper: Annotated[np.ndarray | None, "layer", "column"] = None

    @classmethod
    def renamed(cls, plain: Mapping[str, Any]) -> Mapping[str, str]:
        return {"errors": "standard_errors" if plain.get("measure") == "trace" else "residuals"}

    @property
    def errors(self) -> np.ndarray | None:
        """The old name of ``standard_errors`` for traces, and of ``residuals`` for eigenvalues."""
        new = self.renamed({"measure": self.measure})["errors"]
        warn_renamed("LayerResult.errors", f"LayerResult.{new}")
        return getattr(self, new)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of ``values``."""
        return self.class_names if self.per_class else ("all",)

    def keys(self) -> tuple[str, ...]:
        """The layers."""
        return self.layers

    @property
    def main(self) -> str:
        raise UserError(f"of which layer? name one of {', '.join(self.layers)}, as in of({self.layers[0]!r}, 'few')")

    def _estimate(self, name: str, subset: Subset) -> Estimate:
        nowhere = np.full_like(self.values, np.nan)
        arrays = self.values, self.standard_errors, self.lower, self.upper
        rows = np.array([(nowhere if a is None else a)[self.layers.index(name)] for a in arrays])
        # Estimated traces of all classes come from the same random vectors.
        return self._of_row(rows, subset, self.per_class, independent=self._exact)

    @property
    def _exact(self) -> bool:
        """True for traces without random vectors, whose errors are over images."""
        return self.provenance.get("estimator") == "exact"

    def validate(self) -> None:
        super().validate()
        columns = len(self.class_names) if self.per_class else 1
        if self.measure not in ("lambda_max", "lambda_min", "trace") or self.values.shape[1] != columns:
            raise Refused("has another measure or other classes than it says: probe again")

    def _frame(self) -> pd.DataFrame:
        """One row per layer and class."""
        rows, columns = np.indices(self.values.shape).reshape(2, -1)
        frame = pd.DataFrame([self.row(int(c) if self.per_class else None) for c in columns])
        frame["layer"] = [self.layers[i] for i in rows]
        frame["parameters"] = self.layer_parameters[rows].astype(int)
        numbers = {
            "": self.values, "_se": self.standard_errors, "_lower": self.lower, "_upper": self.upper,
        }  # fmt: skip
        columns_of = {f"{self.measure}{end}": values for end, values in numbers.items()}
        for name, values in {**columns_of, "residual": self.residuals, "converged": self.converged}.items():
            if values is not None:
                frame[name] = values.ravel()
        return frame

    def _long(self, frame: pd.DataFrame) -> pd.DataFrame:
        return long_form(frame, [self.measure], self.AXES)

    @property
    def over(self) -> str:
        """The source of variation of the errors of traces, in words."""
        draws = self.provenance.get("draws", self.provenance.get("probes", "some"))  # old files have the latter
        return "images" if self._exact else f"{draws} random vectors"

    def notes_on(self, frame: pd.DataFrame) -> list[str]:
        return marks_in(frame, {self.measure: self.over})

    @picture("plot_layer_class", "plot_layer_class_grid", classes=True)
    def compare(cls, results: Mapping[str, Any], ax: Any = None, **options: Any) -> Any:
        """Draw a heat map of layers and classes; several models have a panel each, with a common colour scale.

        For several trainings of a model, cells are means; the table has their spread.

        Returns:
            The Axes, or the Figure for several models.
        """
        require_same(each(results), ("measure", "layers", "per_class"), shared=())
        first = first_of(results)
        order, names = columns_of(first)
        symbols = {"lambda_max": r"$\lambda_\mathrm{max}$", "lambda_min": r"$\lambda_\mathrm{min}$", "trace": "trace"}
        label = f"{named_matrix(first.provenance)} {symbols[first.measure]}"
        options = {"label": label, "log": first.measure != "lambda_min", **options}
        values = means(results, lambda r: r.values[:, order])
        return heat_maps(values, dict.fromkeys(values, first.layers), names, ax, options)

    def _summary(self) -> str:
        return (
            f"{self.measure} of {len(self.layers)} layers, {np.nanmin(self.values):.4g} to {np.nanmax(self.values):.4g}"
        )
