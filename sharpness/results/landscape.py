"""Loss along a line and over a plane of parameter space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from sharpness.plots import plot_contours, plot_lines, plot_surfaces
from sharpness.results.base import Result


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Landscape(Result):
    """What lines and planes have in common; for a line the axes (ny, nx) are one, (nx,).

    Attributes:
        x: (nx,).
        losses: (ny, nx).
        class_losses: (C, ny, nx).
        class_accuracies: (C, ny, nx), fractions.
        directions: ``"gaussian"``, ``"hessian"``, ``"gradient"`` or ``"given"``.
        normalization: of Gaussian directions.
        seed: of Gaussian directions.
    """

    x: np.ndarray
    losses: np.ndarray
    class_losses: np.ndarray
    class_accuracies: np.ndarray
    directions: str
    normalization: str | None
    seed: int

    def values(self, subset: str | int | None = None) -> np.ndarray:
        """Losses overall, of a class or of a group, in the shape of ``losses``."""
        return self.select(self.class_losses, subset, self.losses)

    def loss_columns(self) -> dict[str, np.ndarray]:
        """Flat columns: overall, groups that are not empty, classes."""
        subsets: dict[str, str | int | None] = {"loss": None}
        subsets |= {f"loss_{g}": g for g, classes in self.groups.items() if classes}
        subsets |= {f"loss_class_{c}": c for c in range(len(self.class_names))}
        return {column: self.values(subset).ravel() for column, subset in subsets.items()}


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class LineResult(Landscape):
    """``L(w + x d)`` and ``L_c(w + x d)``.

    Attributes:
        x: (n,).
        losses: (n,).
        class_losses: (C, n).
        class_accuracies: (C, n), fractions.
    """

    DIMENSIONS: ClassVar = {
        "x": ("x",),
        "losses": ("x",),
        "class_losses": ("class", "x"),
        "class_accuracies": ("class", "x"),
    }

    def to_frame(self) -> pd.DataFrame:
        """One row per point: x, loss, and a column ``loss_<group or class>`` each."""
        return pd.DataFrame({"x": self.x, **self.loss_columns()})

    @classmethod
    def compare(
        cls, results: Mapping[str, Any], ax: Any = None, subset: str | int | None = None, **options: Any
    ) -> Any:
        """The curves of all models in one panel."""
        curves = {label: (r.x, r.values(subset)) for label, r in results.items()}
        return plot_lines(curves, ax=ax, **options)

    def _summary(self) -> str:
        return f"{len(self.x)} points, loss {self.losses.min():.3g} to {self.losses.max():.3g}"


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PlaneResult(Landscape):
    """``L(w + x_i d1 + y_j d2)`` in cell [j, i], and the same per class.

    Attributes:
        x: (nx,).
        y: (ny,).
        losses: (ny, nx).
        class_losses: (C, ny, nx).
        class_accuracies: (C, ny, nx), fractions.
    """

    DIMENSIONS: ClassVar = {
        "x": ("x",),
        "y": ("y",),
        "losses": ("y", "x"),
        "class_losses": ("class", "y", "x"),
        "class_accuracies": ("class", "y", "x"),
    }

    y: np.ndarray

    def to_frame(self) -> pd.DataFrame:
        """One row per cell: x, y, loss, and a column ``loss_<group or class>`` each."""
        x, y = np.meshgrid(self.x, self.y)
        return pd.DataFrame({"x": x.ravel(), "y": y.ravel(), **self.loss_columns()})

    @classmethod
    def compare(
        cls,
        results: Mapping[str, Any],
        ax: Any = None,
        subset: str | int | None = None,
        kind: str = "contour",
        **options: Any,
    ) -> Any:
        """One panel per model with common limits and levels; ``kind`` is ``"contour"`` or ``"surface"``.

        With a single model ``ax`` may be an Axes; with several, a list of as many.
        """
        panels = {label: (r.x, r.y, r.values(subset)) for label, r in results.items()}
        draw = plot_surfaces if kind == "surface" else plot_contours
        return draw(panels, axes=ax, **options)

    def _summary(self) -> str:
        return (
            f"{len(self.y)} x {len(self.x)} points, loss {np.nanmin(self.losses):.3g} to {np.nanmax(self.losses):.3g}"
        )
