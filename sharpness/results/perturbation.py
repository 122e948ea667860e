"""Losses under random perturbation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd

from sharpness.errors import UserError, choose
from sharpness.results.axes import GAUSSIAN, radius_unit
from sharpness.results.base import Result
from sharpness.results.comparison import each, first_of, means, spreads, stacked
from sharpness.results.estimates import Estimate, Subset
from sharpness.results.picture import applying, picture
from sharpness.results.rounding import described
from sharpness.results.same import require_same
from sharpness.statistics.estimate import interval
from sharpness.untrusted.refused import Refused

KINDS = ("draws", "radii")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PerturbationResult(Result):
    """``L(w + r d_j)`` for every radius r and draw j.

    Attributes:
        radii: (R,).
        losses: (R, D).
        class_losses: (R, D, C).
        class_accuracies: (R, D, C) accuracies; NaN where outputs are not logits.
        base_loss: L(w), from the same arithmetic: the rise at radius 0 is exactly 0.
        base_class_losses: (C,).
        base_class_accuracies: (C,).
        normalization: ``"filter"``, ``"layer"`` or None.
        distribution: ``"gaussian"``, ``"sphere"`` or ``"uniform"``.
    """

    AXES: ClassVar = ("radius", "draw")
    COMPARED: ClassVar = ("radii", "normalization", "distribution", "seed")

    radii: Annotated[np.ndarray, "radius"]
    losses: Annotated[np.ndarray, "radius", "draw"]
    class_losses: Annotated[np.ndarray, "radius", "draw", "class"]
    class_accuracies: Annotated[np.ndarray, "radius", "draw", "class"]
    base_loss: float
    base_class_losses: Annotated[np.ndarray, "class"]
    base_class_accuracies: Annotated[np.ndarray, "class"]
    normalization: str | None
    distribution: str
    seed: int

    def validate(self) -> None:
        super().validate()
        if self.normalization not in GAUSSIAN:
            raise Refused("normalises its directions in an unknown way: probe again")

    def keys(self) -> tuple[str, ...]:
        return ("rise", "loss", "accuracy") if self.has_labels else ("rise", "loss")

    def _estimate(self, name: str, subset: Subset) -> Estimate:
        """At every radius, (R,): means over the draws."""
        draws = self.accuracies(subset) if name == "accuracy" else self.draws(subset)
        if name == "rise":
            draws = draws - self.base(subset)
        count = draws.shape[1]
        error = draws.std(axis=1, ddof=1) / count**0.5 if count > 1 else np.full(len(draws), np.nan)
        mean = draws.mean(axis=1)
        return Estimate(mean, error, *interval(mean, error, count - 1))

    def draws(self, subset: str | int | None = None) -> np.ndarray:
        """Losses (R, D) overall, of a class or of a group."""
        return self.select(np.moveaxis(self.class_losses, -1, 0), subset, self.losses)

    def base(self, subset: str | int | None = None) -> float:
        """The unperturbed loss overall, of a class or of a group."""
        return float(self.select(self.base_class_losses, subset, np.asarray(self.base_loss)))

    def accuracies(self, subset: str | int | None = None) -> np.ndarray:
        """Accuracies (R, D) overall (of all samples, by their weights), of a class or of a group."""
        classes = np.moveaxis(self.class_accuracies, -1, 0)
        return self.select(classes, subset, self.pooled(classes))

    def base_accuracy(self, subset: str | int | None = None) -> float:
        """The unperturbed accuracy overall, of a class or of a group."""
        return float(self.select(self.base_class_accuracies, subset, self.pooled(self.base_class_accuracies)))

    def rise(self, subset: str | int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Mean rise of the loss at every radius, and its standard error over the draws: (R,) and (R,)."""
        return self._estimate("rise", subset)[:2]

    def interval(self, subset: str | int | None = None) -> np.ndarray:
        """Student's 95 % interval of the mean rise at every radius, over the draws: lower and upper ends (2, R)."""
        return np.stack(self["rise"].interval(subset))

    def spread(self, subset: str | int | None = None) -> np.ndarray:
        """Standard deviation of the loss over the draws at every radius, (R,); NaN for a single draw."""
        losses = self.draws(subset)
        return losses.std(axis=1, ddof=1) if losses.shape[1] > 1 else np.full(len(losses), np.nan)

    def _frame(self) -> pd.DataFrame:
        """One row per subset, radius and draw."""
        radius, draw = np.meshgrid(self.radii, np.arange(self.losses.shape[1]), indexing="ij")
        frames = []
        for subset in self.subsets():
            losses = self.draws(subset)
            columns = {
                **self.row(subset),
                "radius": radius.ravel(),
                "draw": draw.ravel(),
                "loss": losses.ravel(),
                "rise": losses.ravel() - self.base(subset),
            }
            if self.has_labels:
                columns["accuracy"] = self.accuracies(subset).ravel()
            frames.append(pd.DataFrame(columns))
        return pd.concat(frames, ignore_index=True)

    def summary(self) -> pd.DataFrame:
        """One row per subset and radius: means over the draws with standard errors and 95 % intervals, and in
        ``rise_std`` the standard deviation of the rise.
        """
        frames = []
        for subset in self.subsets():
            columns = {**self.row(subset), "radius": self.radii, "base": self.base(subset)}
            columns |= {"rise_std": self.spread(subset)}
            if self.has_labels:
                columns |= {"base_accuracy": self.base_accuracy(subset)}
            for name in ("rise", "accuracy") if self.has_labels else ("rise",):
                columns |= self._estimate(name, subset).columns(name)
            frames.append(pd.DataFrame(columns))
        return pd.concat(frames, ignore_index=True)

    @picture("plot_spread", "plot_rises")
    def compare(
        cls,
        results: Mapping[str, Any],
        ax: Any = None,
        of: str | int | None = None,
        kind: str = "draws",
        radius: float | None = None,
        **options: Any,
    ) -> Any:
        """Draw the rise of the loss, with models side by side; for several trainings, with mean and spread.

        Args:
            of: all samples (None), a class, or a group.
            kind: ``"draws"``: every draw at one radius; ``"radii"``: mean and standard deviation over draws at all
                radii. For several trainings, the standard deviation is over trainings, and bars are one standard error
                over draws.
            radius: one of ``radii``, for ``"draws"``; by default the largest.

        Raises:
            UserError: an unknown kind, a radius that was not probed, or results that cannot be compared.
        """
        from sharpness.plots import plot_rises, plot_spread

        choose("kind of picture", kind, KINDS)
        require_same(each(results), cls.COMPARED)
        first = first_of(results)
        unit = radius_unit(first.normalization, first.distribution)
        if kind == "radii":
            if radius is not None:
                raise UserError(f"radius={radius:g}: kind='radii' draws all of them, leave it out")
            rise = means(results, lambda r: r.rise(of)[0])
            trainings = spreads(results, lambda r: r.rise(of)[0])
            # For several trainings, the band is over trainings, and the bar a standard error, not a second deviation.
            errors, over_draws = means(results, lambda r: r.rise(of)[1]), means(results, lambda r: r.spread(of))
            over_draws |= {label: errors[label] for label in trainings}
            curves = {label: (first.radii, rise[label], over_draws[label]) for label in results}
            options = {"xlabel": f"Radius of the perturbation ({unit})", **options}
            return plot_rises(curves, ax, **applying(plot_rises, {"trainings": trainings, **options}))
        at = first.index_of(first.radii.max() if radius is None else radius)
        rises = stacked(results, lambda r: r.draws(of)[at] - r.base(of))
        label = f"Rise of the loss\nat radius {first.radii[at]:g} ({unit})"
        return plot_spread(rises, ax, **applying(plot_spread, {"ylabel": label, **options}))

    def index_of(self, radius: float) -> int:
        """The index of a radius in ``radii``.

        Raises:
            UserError: it was not probed.
        """
        found = np.flatnonzero(np.isclose(self.radii, radius, rtol=1e-6, atol=0))
        if not len(found):
            known = ", ".join(f"{r:g}" for r in self.radii)
            raise UserError(f"radius={radius:g} was not probed: choose one of {known}")
        return int(found[0])

    def _summary(self) -> str:
        value, error, lower, upper = (numbers[-1] for numbers in self._estimate("rise", None))
        told = described(value, error, np.nan, lower, upper)
        return f"rise {told} at radius {self.radii[-1]:g} ([95 %], {self.losses.shape[1]} draws)"
