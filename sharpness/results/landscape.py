"""Loss along a line and over a plane of parameter space."""

from __future__ import annotations

import logging
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

#: Columns of planes alone: every point of a line is evaluated.
INTERPOLATED = ("error", "accuracy_error", "evaluated")
logger = logging.getLogger("sharpness")


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
        evaluated: (ny, nx) True where the loss was evaluated, False where it is interpolated.
        errors: (ny, nx) estimated errors of interpolated losses, 0 where evaluated.
        class_errors: (C, ny, nx).
        class_accuracy_errors: (C, ny, nx) of interpolated accuracies, or None in files of an earlier version.
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
    class_accuracy_errors: np.ndarray | None = None

    def values(self, subset: str | int | None = None) -> np.ndarray:
        """Losses overall, of a class or of a group, in the shape of ``losses``."""
        return self.select(self.class_losses, subset, self.losses)

    def accuracies(self, subset: str | int | None = None) -> np.ndarray:
        """Accuracies overall, ``sum_c n_c a_c / N``, of a class or of a group (the mean of its classes)."""
        return self.select(self.class_accuracies, subset, self._weighted(self.class_accuracies))

    def accuracy_errors(self, subset: str | int | None = None) -> np.ndarray:
        """Estimated errors of :meth:`accuracies`: of several classes their mean, as if all were off to the same side.

        0 where evaluated; NaN elsewhere in files of an earlier version, which do not tell.
        """
        errors = self.class_accuracy_errors
        if errors is None:
            errors = np.where(self.evaluated, 0.0 * self.class_accuracies, np.nan)
        return self.select(errors, subset, self._weighted(errors))

    def _weighted(self, class_values: np.ndarray) -> np.ndarray:
        """Of all samples together, every one of which counts alike."""
        present = np.flatnonzero(self.class_samples)
        shares = self.class_samples[present] / self.class_samples.sum()
        return np.tensordot(shares, class_values[present], 1)

    def _extent(self) -> str:
        finite = self.losses[np.isfinite(self.losses)]
        if not len(finite):
            return "no loss is finite"
        lost = self.losses.size - len(finite)
        return f"loss {finite.min():.3g} to {finite.max():.3g}" + (f", {lost} not finite" if lost else "")

    def columns(self) -> dict[str, np.ndarray]:
        """Flat columns: losses and accuracies of everything, of groups that are not empty, of classes; their errors."""
        subsets: dict[str, str | int | None] = {"": None}
        subsets |= {f"_{g}": g for g, classes in self.groups.items() if classes}
        subsets |= {f"_class_{c}": c for c in range(len(self.class_names))}
        columns = {f"loss{name}": self.values(subset) for name, subset in subsets.items()}
        columns |= {f"accuracy{name}": self.accuracies(subset) for name, subset in subsets.items()}
        columns |= {"error": self.errors, "accuracy_error": self.accuracy_errors()}
        columns["evaluated"] = np.asarray(self.evaluated, dtype=bool)
        return {name: values.ravel() for name, values in columns.items()}

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
            "class_accuracy_errors": ("estimated error of an interpolated accuracy of a class", "1"),
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
        "class_accuracy_errors": ("class", "x"),
        **Landscape.SHARED_DIMENSIONS,
    }

    def to_frame(self) -> pd.DataFrame:
        """One row per point: x, losses, and accuracies, in columns ``loss_<group or class>``."""
        known = {n: v for n, v in self.columns().items() if n not in INTERPOLATED}
        return pd.DataFrame({"x": self.x, **known})

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
        "class_accuracy_errors": ("class", "y", "x"),
        **Landscape.SHARED_DIMENSIONS,
    }

    y: np.ndarray

    def to_frame(self) -> pd.DataFrame:
        """One row per cell: x, y; ``loss`` and ``accuracy``, ``loss_<group or class>`` and so on; whether the cell was
        ``evaluated``, and the estimated ``error`` and ``accuracy_error`` where it was not.
        """
        x, y = np.meshgrid(self.x, self.y)
        return pd.DataFrame({"x": x.ravel(), "y": y.ravel(), **self.columns()})

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
        if quantity == "accuracy":
            _tell_interpolated(results)
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

        Point data are the columns of :meth:`to_frame`, with class names in place of numbers. NaN and infinities stay
        what they are.
        """
        names = {
            f"{what}_class_{c}": f"{what}_class_{name}"
            for what in ("loss", "accuracy")
            for c, name in enumerate(self.class_names)
        }
        arrays = {names.get(k, k): v.reshape(self.losses.shape) for k, v in self.columns().items()}
        path = Path(path)
        write_vtk(path, self.x, self.y, arrays, f"sharpness plane of {self.label}")
        return path

    def _writers(self) -> dict[str, Callable[[Path], object]]:
        return {**super()._writers(), ".vtk": self.to_vtk, ".html": self.save_html}

    def _summary(self) -> str:
        return f"{len(self.y)} x {len(self.x)} points, {self._extent()}"


def _tell_interpolated(results: Mapping[str, Any]) -> None:
    """A line about accuracies between evaluated points: their errors are not those that the tolerance is for."""
    share = np.mean([1 - r.evaluated.mean() for r in results.values()])
    if share > 0:
        worst = max(np.nanmax(r.accuracy_errors(), initial=0) for r in results.values())
        logger.info(
            "accuracy of %.0f %% of the cells is interpolated, overall off by up to about %.2g and more in classes "
            "(accuracy_errors()); adaptive=None evaluates all", 100 * share, worst,
        )  # fmt: skip
