"""Owners of sharp directions: each class's share of an eigenvalue of the whole loss."""

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
from sharpness.results.tables import long_form
from sharpness.results.words import marks_in
from sharpness.statistics.estimate import interval
from sharpness.untrusted.refused import Refused

#: If no share is below this, the colour scale of a picture starts at 0.
BELOW = -0.05
#: Columns of the table: the share, the slope, and the changes of accuracy on both sides.
NUMBERS = ("share", "slope", "accuracy_change_minus", "accuracy_change_plus")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class OwnersResult(Result):
    r"""Shares of the classes in the curvature along the eigenvectors of the overall loss.

    Attributes:
        values: (k,) eigenvalues, in the order of :class:`EigenvalueResult`.
        residuals: (k,) of the eigenpairs.
        converged: (k,) bool, of the eigenpairs.
        shares: (k, C) :math:`(A_c / A)\, v_j' H_c v_j / \lambda_j` with :math:`A_c` the weight of class c; every row
            sums to 1. 0 for a class without samples. A share may be negative, or above 1.
        standard_errors: (k, C) of the shares, over images, with v fixed.
        slopes: (k, C) :math:`g_c' v_j`, the slope of the mean loss of class c along v; NaN without samples.
        slope_errors: (k, C) their standard errors over images.
        accuracy_changes: (k, C, 2) changes of the accuracy of class c at :math:`-\epsilon_j` and
            :math:`+\epsilon_j` along v; NaN if targets are not labels.
        accuracy_change_errors: (k, C, 2) their standard errors over images, of differences image by image.
        epsilons: (k,) distances along the eigenvectors.
        which: the end of the spectrum, as in :class:`EigenvalueResult`.
    """

    AXES: ClassVar = ("direction",)
    COMPARED: ClassVar = ("which",)

    values: Annotated[np.ndarray, "rank"]
    residuals: Annotated[np.ndarray, "rank"]
    converged: Annotated[np.ndarray, "rank"]
    shares: Annotated[np.ndarray, "rank", "class"]
    standard_errors: Annotated[np.ndarray, "rank", "class"]
    slopes: Annotated[np.ndarray, "rank", "class"]
    slope_errors: Annotated[np.ndarray, "rank", "class"]
    accuracy_changes: Annotated[np.ndarray, "rank", "class", "side"]
    accuracy_change_errors: Annotated[np.ndarray, "rank", "class", "side"]
    epsilons: Annotated[np.ndarray, "rank"]
    which: str = "LA"

    def validate(self) -> None:
        super().validate()
        if self.accuracy_changes.shape[-1] != 2 or self.which not in ("LA", "SA", "both"):
            raise Refused("has directions with other sides than two, or another end than it says: probe again")

    @property
    def image_shares(self) -> np.ndarray:
        """Each class's fraction of the weight of all samples, (C,)."""
        weights = self.class_samples if self.class_weights is None else self.class_weights
        return weights / weights.sum()

    @property
    def ranks(self) -> tuple[str, ...]:
        """Names of the k directions, from 1 on."""
        return tuple(str(j + 1) for j in range(len(self.values)))

    def keys(self) -> tuple[str, ...]:
        """The directions."""
        return self.ranks

    @property
    def main(self) -> str:
        raise UserError(f"of which direction? name one of {', '.join(self.ranks)}, as in of('1', 'few')")

    def _estimate(self, name: str, subset: Subset) -> Estimate:
        """The share of a class, or the sum over a group: shares add up, unlike other measures."""
        j = self.ranks.index(name)
        classes = range(len(self.class_names)) if subset is None else np.atleast_1d(self.classes_of(subset))
        chosen = [c for c in classes if self.class_samples[c]]
        if not chosen:
            return Estimate(np.nan)
        value = float(self.shares[j, chosen].sum())
        if subset is None:
            return Estimate(value)
        error = float(np.sqrt((self.standard_errors[j, chosen] ** 2).sum()))
        freedom = self.class_samples[chosen].sum() - 1
        return Estimate(value, error, *interval(value, error, freedom).tolist())

    def _frame(self) -> pd.DataFrame:
        """One row per direction and class, from most to fewest samples."""
        order = [int(c) for c in np.argsort(-self.image_shares, kind="stable")]
        rows = []
        bounds = interval(self.shares, self.standard_errors, self.class_samples - 1)
        for j, direction in enumerate(self.ranks):
            for c in order:
                rows.append({
                    **self.row(c), "direction": int(direction), "eigenvalue": self.values[j],
                    "images": self.image_shares[c], "share": self.shares[j, c], "share_se": self.standard_errors[j, c],
                    "share_lower": bounds[0, j, c], "share_upper": bounds[1, j, c],
                    "slope": self.slopes[j, c], "slope_se": self.slope_errors[j, c], "epsilon": self.epsilons[j],
                    "accuracy_change_minus": self.accuracy_changes[j, c, 0],
                    "accuracy_change_minus_se": self.accuracy_change_errors[j, c, 0],
                    "accuracy_change_plus": self.accuracy_changes[j, c, 1],
                    "accuracy_change_plus_se": self.accuracy_change_errors[j, c, 1],
                })  # fmt: skip
        frame = pd.DataFrame(rows)
        missing = [name for name in NUMBERS if frame[name].isna().all()]  # without labels there is no accuracy
        return frame.drop(columns=[f"{name}{end}" for name in missing for end in ("", "_se")])

    def _long(self, frame: pd.DataFrame) -> pd.DataFrame:
        return long_form(frame, NUMBERS, self.AXES)

    def notes_on(self, frame: pd.DataFrame) -> list[str]:
        notes = marks_in(frame, dict.fromkeys(NUMBERS, "images"))
        missing = [name for name, known in zip(self.ranks, self.converged, strict=True) if not known]
        return notes + ([f"not converged: directions {', '.join(missing)}"] if missing else [])

    @picture("plot_layer_class", "plot_layer_class_grid", classes=True)
    def compare(cls, results: Mapping[str, Any], ax: Any = None, **options: Any) -> Any:
        """Draw a heat map of directions and classes for every model, with classes from most to fewest samples.

        The last row has each class's fraction of the images, for comparison with the shares. For several trainings,
        cells are means over directions of the same rank, which need not be alike.

        Returns:
            The Axes, or the Figure for several models.
        """
        require_same(each(results), cls.COMPARED, shared=())
        first = first_of(results)
        # By weight: equally many images per class may represent a long tail.
        order = in_order(first.class_names, np.argsort(-first.image_shares, kind="stable"))
        names = [first.class_names[c] for c in order]
        numbers = {len(r.values) for r in each(results).values()}
        if len(numbers) > 1:
            raise UserError(f"{' and '.join(map(str, sorted(numbers)))} directions: give every model as many")
        values = means(results, lambda r: np.vstack([r.shares[:, order], r.image_shares[order]]))
        eigenvalues = means(results, lambda r: r.values)
        settings: dict[str, Any] = {"label": "share of eigenvalue (cells: %)", "log": False, "ylabel": "Eigenvector"}
        # Slightly negative shares must not lead to a diverging colour scale.
        shown = np.concatenate([np.ravel(v) for v in values.values()])
        if np.nanmin(shown) > BELOW:
            settings["limits"] = (0.0, float(np.nanmax(shown)))
        rows = {label: _rows(found) for label, found in eigenvalues.items()}
        return heat_maps(values, rows, names, ax, {**settings, "annotated": True, **options})

    def _summary(self) -> str:
        j, c = np.unravel_index(np.nanargmax(self.shares), self.shares.shape)
        return (
            f"{len(self.values)} directions; most: {self.class_names[c]} owns {100 * self.shares[j, c]:.0f} % of "
            f"direction {j + 1}"
        )


def _rows(values: np.ndarray) -> list[str]:
    """Names of the rows of a picture: every direction with its eigenvalue, then the images."""
    return [*(f"{j + 1}: $\\lambda$ = {value:.3g}" for j, value in enumerate(values)), "images"]
