"""Displacements from the weights to the optimum of every class, and the cosines between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd

from sharpness.errors import UserError
from sharpness.results.base import Result
from sharpness.results.comparison import each, first_of, means
from sharpness.results.estimates import Estimate, Subset
from sharpness.results.picture import heat_maps, in_order, picture
from sharpness.results.same import require_same
from sharpness.results.words import marks_in
from sharpness.statistics.estimate import interval
from sharpness.untrusted.refused import Refused

NUMBERS = ("displacement", "optimum_loss")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class OptimaResult(Result):
    """The optimum near the weights for every class or group.

    Attributes:
        lengths: (C,) of the displacements d_c, in norms of the weights; NaN without samples.
        length_errors: (C,) their standard errors over images.
        losses: (C,) L_c at the weights.
        optimum_losses: (C,) L_c at w + d_c.
        optimum_loss_errors: (C,) their standard errors over images, at fixed d_c.
        cosines: (C, C) between displacements; 1 on the diagonal.
        losses_at: (C, C) loss of the column's class at the optimum of the row's class.
        converged: (C,) bool.
        vectors: (C, num_parameters) displacements, or None if they were not kept.
        products: (C,) Gauss-Newton products.
    """

    SETTINGS: ClassVar = ("damping", "steps", "match_samples")

    lengths: Annotated[np.ndarray, "class"]
    length_errors: Annotated[np.ndarray, "class"]
    losses: Annotated[np.ndarray, "class"]
    optimum_losses: Annotated[np.ndarray, "class"]
    optimum_loss_errors: Annotated[np.ndarray, "class"]
    cosines: Annotated[np.ndarray, "optimum", "class"]
    losses_at: Annotated[np.ndarray, "optimum", "class"]
    converged: Annotated[np.ndarray, "class"]
    products: Annotated[np.ndarray, "class"]
    vectors: Annotated[np.ndarray | None, "class", "parameter"] = None

    def validate(self) -> None:
        super().validate()
        if self.cosines.shape[0] != len(self.class_names) or self.losses_at.shape[0] != len(self.class_names):
            raise Refused("has cosines of other classes than it names: probe again")

    def keys(self) -> tuple[str, ...]:
        """The measures: the length of the displacement, and the loss at its end."""
        return NUMBERS

    def _estimate(self, name: str, subset: Subset) -> Estimate:
        pair = (self.lengths, self.length_errors), (self.optimum_losses, self.optimum_loss_errors)
        values, errors = pair[NUMBERS.index(name)]
        ends = interval(values, errors, self.class_samples - 1, keeps_sign=True)
        return self._of_row(np.stack([values, errors, *ends]), subset, per_class=True)

    def direction(self, subset: str | int) -> np.ndarray:
        """The displacement of a class or group (k,), for example as a direction for :func:`~sharpness.plane`.

        Raises:
            UserError: displacements were not kept, or an unknown class.
        """
        if self.vectors is None:
            raise UserError("displacements were not kept: take keep_vectors=True")
        found = self.classes_of(subset)
        return np.asarray(self.vectors[found].mean(axis=0) if isinstance(found, list) else self.vectors[found])

    def _frame(self) -> pd.DataFrame:
        """One row per class or group."""
        frame = pd.DataFrame([self.row(c) for c in range(len(self.class_names))])
        for name in NUMBERS:
            found = self[name]
            rows = Estimate(found.values, found.standard_errors, *found.intervals)
            frame = frame.assign(**rows.columns(name))
            if name == "displacement":
                frame["loss"] = self.losses
        others = self.cosines + np.where(np.eye(len(self.cosines)) > 0, np.nan, 0.0)
        known = np.isfinite(others).any(axis=1)
        worst = [int(np.nanargmin(row)) if there else None for row, there in zip(others, known, strict=True)]
        frame["least_cosine"] = [np.nan if w is None else others[c, w] for c, w in enumerate(worst)]
        frame["with"] = ["" if w is None else self.class_names[w] for w in worst]
        frame["converged"], frame["products"] = self.converged, self.products.astype(int)
        return frame

    def notes_on(self, frame: pd.DataFrame) -> list[str]:
        return marks_in(frame, dict.fromkeys(NUMBERS, "images"))

    @picture("plot_layer_class", "plot_layer_class_grid", classes=True)
    def compare(cls, results: Mapping[str, Any], ax: Any = None, **options: Any) -> Any:
        """Draw the conflict matrix: cosines between the displacements of classes, from most to fewest images.

        For several trainings, cells are means. A negative cosine means that what helps one class harms the other.

        Returns:
            The Axes, or the Figure for several models.
        """
        require_same(each(results), shared=())
        first = first_of(results)
        order = in_order(first.class_names, first.by_size())
        names = [first.class_names[c] for c in order]
        values = means(results, lambda r: r.cosines[np.ix_(order, order)])
        settings = {"label": "cosine (cells: in hundredths)", "log": False, "ylabel": "Class", "limits": (-1.0, 1.0)}
        return heat_maps(values, dict.fromkeys(values, names), names, ax, {**settings, "annotated": True, **options})

    def _summary(self) -> str:
        low, high = np.nanmin(self.lengths), np.nanmax(self.lengths)
        return f"displacements of {low:.3g} to {high:.3g} weight norms, least cosine {np.nanmin(self.cosines):.2f}"
