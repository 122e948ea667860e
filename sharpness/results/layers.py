"""One number for every layer and class: where in the network, and for whom, the loss is sharp."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from sharpness.errors import UserError
from sharpness.plots import plot_layer_class, plot_layer_class_grid
from sharpness.results.base import Result
from sharpness.results.comparison import each, first_of, means
from sharpness.results.picture import applying, in_order, picture
from sharpness.results.same import require_same
from sharpness.untrusted.refused import Refused


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class LayerResult(Result):
    """A measure of the Hessian's diagonal blocks, one block per layer.

    Attributes:
        measure: ``"lambda_max"``, ``"lambda_min"`` or ``"trace"``.
        layers: names of the L layers, in the order of the network.
        layer_parameters: (L,) parameters of each.
        values: (L, C), or (L, 1) of all classes together; NaN for a class without samples.
        errors: like ``values``: the standard error of an estimate, the residual of an eigenvalue.
        converged: like ``values``, bool.
        per_class: whether the columns are classes.
        sample_products: Hessian-vector products times samples.
    """

    DIMENSIONS: ClassVar = {
        "layer_parameters": ("layer",),
        "values": ("layer", "column"),
        "errors": ("layer", "column"),
        "converged": ("layer", "column"),
    }

    measure: str
    layers: tuple[str, ...]
    layer_parameters: np.ndarray
    values: np.ndarray
    errors: np.ndarray
    converged: np.ndarray
    per_class: bool
    sample_products: int

    def validate(self) -> None:
        super().validate()
        columns = len(self.class_names) if self.per_class else 1
        if self.measure not in ("lambda_max", "lambda_min", "trace") or self.values.shape[1] != columns:
            raise Refused("has another measure or other classes than it says: probe again")

    def to_frame(self) -> pd.DataFrame:
        """One row per layer and class."""
        rows, columns = np.indices(self.values.shape).reshape(2, -1)
        names = self.class_names if self.per_class else ("all",)
        samples = self.class_samples if self.per_class else np.array([self.class_samples.sum()])
        return pd.DataFrame(
            {
                "layer": [self.layers[i] for i in rows],
                "parameters": self.layer_parameters[rows].astype(int),
                "class": [names[j] for j in columns],
                "group": [self.group_of(int(j)) if self.per_class else "" for j in columns],
                "samples": samples[columns].astype(int),
                self.measure: self.values.ravel(),
                "error" if self.measure == "trace" else "residual": self.errors.ravel(),
                "converged": self.converged.ravel(),
            }
        )

    @classmethod
    @picture(plot_layer_class, plot_layer_class_grid, classes=True)
    def compare(cls, results: Mapping[str, Any], ax: Any = None, **options: Any) -> Any:
        """A heat map of layers and classes; of several models, a panel each with one scale of colours.

        Of several trainings of a model the cells are means; their spread is in the table.

        Returns:
            The Axes, or of several models the Figure.
        """
        require_same(each(results), shared=())
        first = first_of(results)
        order = in_order(first.class_names, first.by_size()) if first.per_class else np.zeros(1, dtype=int)
        names = [first.class_names[c] for c in order] if first.per_class else ["all"]
        symbols = {"lambda_max": r"$\lambda_\mathrm{max}$", "lambda_min": r"$\lambda_\mathrm{min}$", "trace": "trace"}
        options = {"label": f"Hessian {symbols[first.measure]}", "log": first.measure != "lambda_min", **options}
        values = means(results, lambda r: r.values[:, order])
        if len(values) == 1:
            (only,) = values.values()
            return plot_layer_class(only, first.layers, names, ax, **applying(plot_layer_class, options))
        if ax is not None:
            raise UserError("ax: a panel for each model is a figure of its own: leave it out, or draw one model")
        return plot_layer_class_grid(values, first.layers, names, **applying(plot_layer_class_grid, options))

    def _summary(self) -> str:
        return (
            f"{self.measure} of {len(self.layers)} layers, {np.nanmin(self.values):.4g} to {np.nanmax(self.values):.4g}"
        )
