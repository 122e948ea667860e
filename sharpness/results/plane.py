"""Loss over a plane of parameter space."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np

from sharpness.errors import UserError
from sharpness.renamed import renamed_arguments
from sharpness.results.basins import Basins, basins_of
from sharpness.results.comparison import first_of, one_training
from sharpness.results.estimates import Subset
from sharpness.results.landscape import Landscape, require_samples
from sharpness.results.picture import picture
from sharpness.results.same import noise_fields, require_same
from sharpness.results.subsets import drawable, several, values_of
from sharpness.results.vtk import write_vtk

logger = logging.getLogger("sharpness")


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

    AXES: ClassVar = ("x", "y")
    COMPARED: ClassVar = ("directions", "x", "y")

    y: Annotated[np.ndarray, "y"]

    def points(self) -> dict[str, np.ndarray]:
        x, y = np.meshgrid(self.x, self.y)
        return {"x": x.ravel(), "y": y.ravel()}

    @picture("plot_plane_grid", "interactive_surfaces")
    def compare(
        cls,
        results: Mapping[str, Any],
        ax: Any = None,
        of: Subset | Sequence[Subset] = None,
        kind: str = "filled",
        quantity: str = "loss",
        run: str | None = None,
        basins: bool = False,
        **options: Any,
    ) -> Any:
        """Draw a panel for each model, with common levels and colours; a list of subsets becomes rows.

        Args:
            ax: an Axes for a single panel; otherwise a list of Axes, row by row.
            of: all samples (None or ``"all"``), a class, a group, or a list of these.
            kind: ``"filled"`` contours, ``"contour"`` lines with their values, ``"heatmap"``, ``"surface"``, or
                ``"interactive"``, a plotly Figure, in which a menu chooses among the subsets.
            quantity: ``"loss"``; ``"rise"`` above the model's own unperturbed loss, which shows flatness where losses
                are far apart; or ``"accuracy"``.
            run: the training to show if a model has several, such as ``"seed 1"``; by default the first. The title
                names it.
            basins: outline the basins of every panel: a solid line around the one that holds the model, dashed ones
                around others, and a cross at each bottom. For contours and heat maps.
        """
        from sharpness.plots import outline_basins
        from sharpness.results.pictures import draw_planes

        results = one_training(results, run)
        first = first_of(results)
        require_same(results, noise_fields(first, cls.COMPARED))
        require_samples(first, of)
        if quantity == "accuracy":
            _warn_interpolated(results)
        # Outlines come last: they lie above what is drawn.
        drawn = draw_planes(results, ax, of, kind, quantity, options)
        if basins:
            if kind not in ("filled", "contour", "heatmap") or quantity == "accuracy":
                raise UserError(
                    f"basins=True with kind={kind!r}, quantity={quantity!r}: outlines are of losses on maps"
                )
            subsets = several(of)
            shown = [of] if subsets is None else drawable(results, subsets, quantity) if ax is None else subsets
            pairs = [(result, one) for one in shown for result in results.values()]
            for place, (result, one) in zip(np.atleast_1d(np.asarray(drawn, dtype=object)), pairs, strict=True):
                found = result.basins(one)
                outline_basins(place, result.x, result.y, [(b.mask, b.x, b.y, b is found.own) for b in found.found])
        return drawn

    def basins(self, of: Subset = None, least: float | None = None) -> Basins:
        """Find the basins of the loss: depth, area, saddles, and whether one holds the model.

        Args:
            of: all samples (None), a class or a group.
            least: minimum persistence of a basin; by default a hundredth of the range of losses.

        Raises:
            UserError: no finite loss, an unknown subset, or a negative persistence.
        """
        return basins_of(values_of(self, of, "loss"), self.x, self.y, least)

    @renamed_arguments(subset="of")
    def interactive(self, of: Subset | Sequence[Subset] = None, **options: Any) -> Any:
        """An interactive plotly figure; unless ``of`` is given, a menu selects the subset.

        For several models side by side, use ``Comparison.plot(kind="interactive")``.

        Raises:
            UserError: plotly is not installed.
        """
        return self.plot(kind="interactive", of=of, **options)

    @renamed_arguments(subset="of")
    def save_html(self, path: str | Path, of: Subset | Sequence[Subset] = None, **options: Any) -> Path:
        """Write :meth:`interactive` as one HTML file that works offline."""
        from sharpness.plots import save_html

        return save_html(self.interactive(of, **options), path)

    def to_vtk(self, path: str | Path) -> Path:
        """Write a grid for ParaView with points ``(x_i, y_j, 0)``; "Warp By Scalar" turns it into a surface.

        Point data are ``loss``, ``loss_<group>``, ``loss_class_<name>``, accuracies with analogous names, interpolation
        errors, and ``evaluated``. NaN and infinities are kept.
        """
        arrays: dict[str, np.ndarray] = {}
        for subset in self.subsets():
            name = f"class_{self.class_names[subset]}" if isinstance(subset, int) else subset
            for quantity, (values, errors) in self._quantities(subset).items():
                arrays[quantity if name is None else f"{quantity}_{name}"] = values
                if name is None:
                    arrays[f"{quantity}_interpolation_error"] = errors
        arrays["evaluated"] = np.asarray(self.evaluated, dtype=bool)
        path = Path(path)
        write_vtk(path, self.x, self.y, arrays, f"sharpness plane of {self.label}")
        return path

    def _writers(self) -> dict[str, Callable[[Path], object]]:
        return {**super()._writers(), ".vtk": self.to_vtk, ".html": self.save_html}

    def _summary(self) -> str:
        return f"{len(self.y)} x {len(self.x)} points, {self._extent()}"


def _warn_interpolated(results: Mapping[str, Any]) -> None:
    """Log the errors of interpolated accuracies, which the tolerance does not control."""
    share = np.mean([1 - r.evaluated.mean() for r in results.values()])
    if share > 0:
        off = np.concatenate([r.accuracy_interpolation_errors()[~r.evaluated] for r in results.values()])
        logger.info(
            "accuracy of %.0f %% of the cells is interpolated, overall within an estimated %.2g on average, in classes "
            "within more (accuracy_interpolation_errors()); adaptive=None evaluates all", 100 * share, off.mean(),
        )  # fmt: skip
