"""Base class of lines and planes in parameter space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd
import xarray as xr

from sharpness.errors import UserError, choose
from sharpness.files import write_atomically
from sharpness.results.axes import GAUSSIAN, plane_unit
from sharpness.results.base import Result
from sharpness.results.estimates import Estimate, Subset
from sharpness.results.subsets import plain_subset, several, subset_title
from sharpness.untrusted.refused import Refused


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Landscape(Result):
    """Base class of lines and planes; for a line, the shape (ny, nx) is (nx,).

    Attributes:
        x: (nx,).
        losses: (ny, nx).
        class_losses: (C, ny, nx).
        class_accuracies: (C, ny, nx), fractions.
        directions: ``"gaussian"``, ``"hessian"``, ``"gradient"`` or ``"given"``.
        normalization: normalisation of Gaussian directions.
        seed: seed of Gaussian directions.
        evaluated: (ny, nx) True where the loss was evaluated, False where it is interpolated.
        interpolation_errors: (ny, nx) estimated errors of interpolated losses, 0 where evaluated.
        class_interpolation_errors: (C, ny, nx).
        class_accuracy_interpolation_errors: (C, ny, nx) of interpolated accuracies, or None in files of an earlier
            version.
        base_loss: L(w), in the model's own precision.
        base_class_losses: (C,).
        precision: of the forward passes.
        precision_error: by how much L(w) differs in that precision.
        class_precision_errors: (C,).
        marks: (m, 2) points on the plane (m, 1) on the line: other models, or the steps of a trajectory; or None.
        mark_names: their names, or none.
    """

    RENAMED: ClassVar = {
        "errors": "interpolation_errors",
        "class_errors": "class_interpolation_errors",
        "class_accuracy_errors": "class_accuracy_interpolation_errors",
        "accuracy_errors": "accuracy_interpolation_errors",
    }

    x: Annotated[np.ndarray, "x"]
    losses: Annotated[np.ndarray, ...]
    class_losses: Annotated[np.ndarray, "class", ...]
    class_accuracies: Annotated[np.ndarray, "class", ...]
    directions: str
    normalization: str | None
    seed: int
    evaluated: Annotated[np.ndarray, ...]
    interpolation_errors: Annotated[np.ndarray, ...]
    class_interpolation_errors: Annotated[np.ndarray, "class", ...]
    base_loss: float
    base_class_losses: Annotated[np.ndarray, "class"]
    precision: str
    precision_error: float
    class_precision_errors: Annotated[np.ndarray, "class"]
    marks: Annotated[np.ndarray | None, "mark", "axis"] = None
    mark_names: tuple[str, ...] = ()
    class_accuracy_interpolation_errors: Annotated[np.ndarray | None, "class", ...] = None

    def keys(self) -> tuple[str, ...]:
        return ("loss", "rise", "accuracy") if self.has_labels else ("loss", "rise")

    def _estimate(self, name: str, subset: Subset) -> Estimate:
        """At every point, in the shape of ``losses``."""
        found = {"loss": self.values, "rise": self.rises, "accuracy": self.accuracies}[name](subset)
        unknown = np.full_like(found, np.nan)
        return Estimate(found, unknown, unknown, unknown)

    def values(self, subset: str | int | None = None) -> np.ndarray:
        """Losses overall, of a class or of a group, in the shape of ``losses``."""
        return self.select(self.class_losses, subset, self.losses)

    def rises(self, subset: str | int | None = None) -> np.ndarray:
        """Losses minus the unperturbed loss of the same subset."""
        return self.values(subset) - self.select(self.base_class_losses, subset, np.asarray(self.base_loss))

    def accuracies(self, subset: str | int | None = None) -> np.ndarray:
        """Accuracies overall (of all samples, by their weights), of a class or of a group (the mean of its classes)."""
        return self.select(self.class_accuracies, subset, self.pooled(self.class_accuracies))

    def accuracy_interpolation_errors(self, subset: str | int | None = None) -> np.ndarray:
        """Estimated errors of :meth:`accuracies`; for several classes their mean, as if all had the same sign.

        0 at evaluated points; NaN elsewhere in files of earlier versions, which do not record them.
        """
        errors = self.class_accuracy_interpolation_errors
        if errors is None:
            errors = np.where(self.evaluated, 0.0 * self.class_accuracies, np.nan)
        return self.select(errors, subset, self.pooled(errors))

    def _extent(self) -> str:
        finite = self.losses[np.isfinite(self.losses)]
        if not len(finite):
            return "no loss is finite"
        lost = self.losses.size - len(finite)
        return f"loss {finite.min():.3g} to {finite.max():.3g}" + (f", {lost} not finite" if lost else "")

    def points(self) -> dict[str, np.ndarray]:
        """Flat coordinates of every point, by the name of the axis."""
        return {"x": self.x}

    def _frame(self) -> pd.DataFrame:
        """One row per subset and point: losses and accuracies; for a plane, interpolation errors and ``evaluated``."""
        points = self.points()
        frames = []
        for subset in self.subsets():
            columns: dict[str, Any] = {**self.row(subset), **points}
            for name, (values, errors) in self._quantities(subset).items():
                columns[name] = values.ravel()
                if "y" in points:
                    columns[f"{name}_interpolation_error"] = errors.ravel()
            if "y" in points:
                columns["evaluated"] = np.ravel(self.evaluated).astype(bool)
            frames.append(pd.DataFrame(columns))
        return pd.concat(frames, ignore_index=True)

    def _quantities(self, subset: Subset) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Losses and, if targets are labels, accuracies, with the errors of interpolated ones."""
        errors = self.select(self.class_interpolation_errors, subset, self.interpolation_errors)
        found = {"loss": (self.values(subset), errors)}
        if self.has_labels:
            found["accuracy"] = self.accuracies(subset), self.accuracy_interpolation_errors(subset)
        return found

    def validate(self) -> None:
        super().validate()
        if self.normalization not in GAUSSIAN:
            raise Refused("normalises its directions in an unknown way: probe again")
        axes, explained = (2 if hasattr(self, "y") else 1), self.provenance.get("explained")
        if self.marks is not None and self.marks.shape[1] != axes:
            raise Refused("marks points that are not in its picture: probe again")
        if explained is not None and not (
            isinstance(explained, list) and len(explained) >= axes and all(type(e) in (int, float) for e in explained)
        ):
            raise Refused("tells the shares of its axes oddly: probe again")

    def to_dataset(self) -> xr.Dataset:
        """The numbers as an xarray data set; every array has a description and a unit."""
        data = super().to_dataset()
        loss = "nat" if self.provenance.get("loss") == "ce" else "1"
        described = {
            "losses": ("loss of all samples", loss),
            "class_losses": ("loss of every class", loss),
            "class_accuracies": ("accuracy of every class", "1"),
            "interpolation_errors": ("estimated error of an interpolated loss", loss),
            "class_interpolation_errors": ("estimated error of an interpolated loss of a class", loss),
            "class_accuracy_interpolation_errors": ("estimated error of an interpolated accuracy of a class", "1"),
            "evaluated": ("whether the loss was evaluated here", "1"),
            "base_class_losses": ("loss of every class at the centre", loss),
            "class_precision_errors": ("error of the precision at the centre", loss),
            "class_samples": ("samples of every class", "1"),
            "class_weights": ("weight of the samples of every class", "1"),
            "marks": ("positions of models", "1"),
        }
        for axis, name in enumerate(("x", "y")):
            unit = plane_unit(self.directions, self.normalization, axis)
            described[name] = (f"distance along direction {axis + 1}", unit)
        # Attributes of the CF conventions, from which xarray's plots label their axes.
        for name, (meaning, unit) in described.items():
            if name in data.variables:
                data[name].attrs |= {"long_name": meaning, "units": unit}
                if "class" in data[name].dims:
                    data[name].attrs["classes"] = ", ".join(self.class_names)
        return data

    def export(self, path: str | Path) -> Path:
        """Export for other programs (atomically) in a format chosen by the suffix.

        ``.csv`` is the table of :meth:`to_frame`, and ``.nc`` is NetCDF as by :meth:`save`. Planes can also be written
        as ``.vtk``, see :meth:`PlaneResult.to_vtk`, or ``.html``, see :meth:`PlaneResult.save_html`.

        Raises:
            UserError: another suffix.
        """
        path, writers = Path(path), self._writers()
        choose("suffix of an export", path.suffix, list(writers))
        writers[path.suffix](path)
        return path

    def _writers(self) -> dict[str, Callable[[Path], object]]:
        """Writers of files, by suffix."""
        return {
            ".csv": lambda path: write_atomically(path, lambda partial: self.to_frame().to_csv(partial, index=False)),
            ".nc": self.save,
        }


def require_samples(result: Any, subset: Any) -> None:
    """Refuse subsets if none of them has a sample: there would be nothing but NaN to draw."""
    empty, chosen = [], several(subset)
    for one in [subset] if chosen is None else chosen:
        samples = result.class_samples.astype(float)
        if result.groups.get(one) == () or result.select(samples, plain_subset(result, one), samples.sum()) > 0:
            return
        empty.append(subset_title(result, one))
    raise UserError(f"{', '.join(empty)}: no samples here, there is nothing to draw")
