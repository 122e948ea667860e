"""Loss along a line and over a plane of parameter space."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import xarray as xr

from sharpness.errors import choose
from sharpness.files import write_atomically
from sharpness.plots import save_html
from sharpness.results.axes import plane_unit
from sharpness.results.base import Result
from sharpness.results.pictures import Subset, draw_lines, draw_planes
from sharpness.results.same import noise_fields, require_same
from sharpness.results.vtk import write_vtk


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Landscape(Result):
    """What lines and planes have in common; for a line the axes (ny, nx) are one, (nx,).

    Attributes:
        x: (nx,).
        losses: (ny, nx).
        class_losses: (C, ny, nx).
        class_accuracies: (C, ny, nx), fractions. Those between evaluated points have no estimated error.
        directions: ``"gaussian"``, ``"hessian"``, ``"gradient"`` or ``"given"``.
        normalization: of Gaussian directions.
        seed: of Gaussian directions.
        evaluated: (ny, nx) True where the loss was evaluated, False where it is interpolated.
        errors: (ny, nx) estimated errors of interpolated losses, 0 where evaluated.
        class_errors: (C, ny, nx).
        base_loss: L(w), in the model's own precision.
        base_class_losses: (C,).
        precision: of the forward passes.
        precision_error: by how much L(w) differs in that precision.
        class_precision_errors: (C,).
        marks: (m, 2) points on the plane (m, 1) on the line: other models, or the steps of a trajectory; or None.
        mark_names: their names, or none.
    """

    SHARED_DIMENSIONS: ClassVar[dict[str, tuple[str, ...]]] = {
        "base_class_losses": ("class",),
        "class_precision_errors": ("class",),
        "marks": ("mark", "axis"),
    }

    x: np.ndarray
    losses: np.ndarray
    class_losses: np.ndarray
    class_accuracies: np.ndarray
    directions: str
    normalization: str | None
    seed: int
    evaluated: np.ndarray
    errors: np.ndarray
    class_errors: np.ndarray
    base_loss: float
    base_class_losses: np.ndarray
    precision: str
    precision_error: float
    class_precision_errors: np.ndarray
    marks: np.ndarray | None = None
    mark_names: tuple[str, ...] = ()

    def values(self, subset: str | int | None = None) -> np.ndarray:
        """Losses overall, of a class or of a group, in the shape of ``losses``."""
        return self.select(self.class_losses, subset, self.losses)

    def accuracies(self, subset: str | int | None = None) -> np.ndarray:
        """Accuracies overall, ``sum_c n_c a_c / N``, of a class or of a group (the mean of its classes)."""
        present = np.flatnonzero(self.class_samples)
        shares = self.class_samples[present] / self.class_samples.sum()
        overall = np.tensordot(shares, self.class_accuracies[present], 1)
        return self.select(self.class_accuracies, subset, overall)

    def _extent(self) -> str:
        finite = self.losses[np.isfinite(self.losses)]
        if not len(finite):
            return "no loss is finite"
        lost = self.losses.size - len(finite)
        return f"loss {finite.min():.3g} to {finite.max():.3g}" + (f", {lost} not finite" if lost else "")

    def loss_columns(self) -> dict[str, np.ndarray]:
        """Flat columns: overall, groups that are not empty, classes."""
        subsets: dict[str, str | int | None] = {"loss": None}
        subsets |= {f"loss_{g}": g for g, classes in self.groups.items() if classes}
        subsets |= {f"loss_class_{c}": c for c in range(len(self.class_names))}
        return {column: self.values(subset).ravel() for column, subset in subsets.items()}

    def to_dataset(self) -> xr.Dataset:
        """The numbers as an xarray data set; every array says what it is, and its unit."""
        data = super().to_dataset()
        loss = "nat" if self.provenance.get("loss") == "ce" else "1"
        described = {
            "losses": ("loss of all samples", loss),
            "class_losses": ("loss of every class", loss),
            "class_accuracies": ("accuracy of every class", "1"),
            "errors": ("estimated error of an interpolated loss", loss),
            "class_errors": ("estimated error of an interpolated loss of a class", loss),
            "evaluated": ("whether the loss was evaluated here", "1"),
            "base_class_losses": ("loss of every class at the centre", loss),
            "class_precision_errors": ("error of the precision at the centre", loss),
            "class_samples": ("samples of every class", "1"),
            "marks": ("positions of models", "1"),
        }
        for axis, name in enumerate(("x", "y")):
            unit = plane_unit(self.directions, self.normalization, axis)
            described[name] = (f"distance along direction {axis + 1}", unit)
        for name, (meaning, unit) in described.items():
            if name in data.variables:
                data[name].attrs |= {"long_name": meaning, "units": unit}
                if "class" in data[name].dims:
                    data[name].attrs["classes"] = ", ".join(self.class_names)
        return data.assign_coords({"class": list(self.class_names)})

    def export(self, path: str | Path) -> Path:
        """Write for other programs, whole or not at all; the suffix says how.

        ``.csv`` is the table of :meth:`to_frame`, ``.nc`` NetCDF as by :meth:`save`. A plane also becomes ``.vtk``, as
        by :meth:`PlaneResult.to_vtk`, or ``.html``, as by :meth:`PlaneResult.save_html`.

        Raises:
            UserError: another suffix.
        """
        path, writers = Path(path), self._writers()
        choose("suffix of an export", path.suffix, list(writers))
        writers[path.suffix](path)
        return path

    def _writers(self) -> dict[str, Callable[[Path], object]]:
        """How files of every suffix are written."""
        return {
            ".csv": lambda path: write_atomically(path, lambda partial: self.to_frame().to_csv(partial, index=False)),
            ".nc": self.save,
        }


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
        "evaluated": ("x",),
        "errors": ("x",),
        "class_errors": ("class", "x"),
        **Landscape.SHARED_DIMENSIONS,
    }

    def to_frame(self) -> pd.DataFrame:
        """One row per point: x, loss, and a column ``loss_<group or class>`` each."""
        return pd.DataFrame({"x": self.x, **self.loss_columns()})

    @classmethod
    def compare(
        cls,
        results: Mapping[str, Any],
        ax: Any = None,
        subset: Subset | Sequence[Subset] = None,
        quantity: str = "loss",
        **options: Any,
    ) -> Any:
        """The curves of all models in one panel; or, of a list of subsets, a panel of these for each model.

        Args:
            ax: an Axes; for several models and a list of subsets, as many as there are models.
            subset: everything (None or ``"all"``), a class, a group, or a list of them.
            quantity: ``"loss"`` or ``"accuracy"``.
            options: of :func:`~sharpness.plots.plot_lines`, such as ``log=True``.
        """
        first = next(iter(results.values()))
        require_same(results, noise_fields(first.directions, ("directions", "x")))
        return draw_lines(results, ax, subset, quantity, options)

    def _summary(self) -> str:
        return f"{len(self.x)} points, {self._extent()}"


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
        "evaluated": ("y", "x"),
        "errors": ("y", "x"),
        "class_errors": ("class", "y", "x"),
        **Landscape.SHARED_DIMENSIONS,
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
        subset: Subset | Sequence[Subset] = None,
        kind: str = "filled",
        quantity: str = "loss",
        **options: Any,
    ) -> Any:
        """A panel for each model, with common levels and colours; a list of subsets becomes rows.

        Args:
            ax: with a single panel an Axes; with several, a list of as many, row by row.
            subset: everything (None or ``"all"``), a class, a group, or a list of them.
            kind: ``"filled"`` contours, ``"contour"`` lines with their values, ``"heatmap"``, ``"surface"``, or
                ``"interactive"``, a plotly Figure, in which a menu chooses among the subsets.
            quantity: ``"loss"`` or ``"accuracy"``.
            options: of :func:`~sharpness.plots.plot_plane_grid`, such as ``scale="log"``, ``share="all"`` or
                ``points=True``, or of :func:`~sharpness.plots.interactive_surfaces`.
        """
        first = next(iter(results.values()))
        require_same(results, noise_fields(first.directions, ("directions", "x", "y")))
        return draw_planes(results, ax, subset, kind, quantity, options)

    def interactive(self, subset: Subset | Sequence[Subset] = None, **options: Any) -> Any:
        """A plotly Figure to turn and to hover over; unless ``subset`` is given, a menu offers all of them.

        Several models go side by side with ``Comparison.plot(kind="interactive")``.

        Raises:
            UserError: plotly is not installed.
        """
        return self.plot(kind="interactive", subset=subset, **options)

    def save_html(self, path: str | Path, subset: Subset | Sequence[Subset] = None, **options: Any) -> Path:
        """Write :meth:`interactive` as one HTML file that works without a network."""
        return save_html(self.interactive(subset, **options), path)

    def to_vtk(self, path: str | Path) -> Path:
        """Write a grid that ParaView opens, of points ``(x_i, y_j, 0)``; "Warp By Scalar" raises it.

        Point data are the columns of :meth:`to_frame`, with class names in place of numbers, accuracies, the estimated
        error, and whether a point was evaluated. NaN and infinities stay what they are.
        """
        names = {f"loss_class_{c}": f"loss_class_{name}" for c, name in enumerate(self.class_names)}
        arrays = {names.get(k, k): v.reshape(self.losses.shape) for k, v in self.loss_columns().items()}
        arrays |= {"accuracy": self.accuracies()}
        arrays |= {f"accuracy_class_{n}": a for n, a in zip(self.class_names, self.class_accuracies, strict=True)}
        arrays |= {"error": self.errors, "evaluated": np.asarray(self.evaluated, dtype=bool)}
        path = Path(path)
        write_vtk(path, self.x, self.y, arrays, f"sharpness plane of {self.label}")
        return path

    def _writers(self) -> dict[str, Callable[[Path], object]]:
        return {**super()._writers(), ".vtk": self.to_vtk, ".html": self.save_html}

    def _summary(self) -> str:
        return f"{len(self.y)} x {len(self.x)} points, {self._extent()}"
