"""Losses under random perturbation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from sharpness.plots import plot_spread
from sharpness.results.base import Result


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PerturbationResult(Result):
    """``L(w + r d_j)`` for every radius r and draw j.

    Attributes:
        radii: (R,).
        losses: (R, D).
        class_losses: (R, D, C).
        base_loss: L(w).
        base_class_losses: (C,).
    """

    DIMENSIONS: ClassVar = {
        "radii": ("radius",),
        "losses": ("radius", "draw"),
        "class_losses": ("radius", "draw", "class"),
        "base_class_losses": ("class",),
    }

    radii: np.ndarray
    losses: np.ndarray
    class_losses: np.ndarray
    base_loss: float
    base_class_losses: np.ndarray
    normalization: str | None
    seed: int

    def draws(self, subset: str | int | None = None) -> np.ndarray:
        """Losses (R, D) overall, of a class or of a group."""
        return self.select(np.moveaxis(self.class_losses, -1, 0), subset, self.losses)

    def base(self, subset: str | int | None = None) -> float:
        """The unperturbed loss overall, of a class or of a group."""
        return float(self.select(self.base_class_losses, subset, np.asarray(self.base_loss)))

    def rise(self, subset: str | int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Mean rise of the loss at every radius, and its standard error over the draws: (R,) and (R,)."""
        rises = self.draws(subset) - self.base(subset)
        number = rises.shape[1]
        error = rises.std(axis=1, ddof=1) / number**0.5 if number > 1 else np.full(len(rises), np.nan)
        return rises.mean(axis=1), error

    def to_frame(self) -> pd.DataFrame:
        """One row per radius, draw and subset: ``kind`` is overall, group or class."""
        subsets: list[tuple[str, str, str | int | None]] = [("overall", "all", None)]
        subsets += [("group", g, g) for g, classes in self.groups.items() if classes]
        subsets += [("class", name, c) for c, name in enumerate(self.class_names)]
        frames = []
        for kind, name, subset in subsets:
            losses = self.draws(subset)
            radius, draw = np.meshgrid(self.radii, np.arange(losses.shape[1]), indexing="ij")
            frames.append(
                pd.DataFrame(
                    {
                        "kind": kind,
                        "name": name,
                        "radius": radius.ravel(),
                        "draw": draw.ravel(),
                        "loss": losses.ravel(),
                        "rise": losses.ravel() - self.base(subset),
                    }
                )
            )
        return pd.concat(frames, ignore_index=True)

    @classmethod
    def compare(
        cls,
        results: Mapping[str, Any],
        ax: Any = None,
        subset: str | int | None = None,
        radius: float | None = None,
        **options: Any,
    ) -> Any:
        """The rise of the loss in every draw at one radius (the largest unless given), model beside model."""
        first = next(iter(results.values()))
        chosen = first.radii[-1] if radius is None else radius
        at = int(np.argmin(np.abs(first.radii - chosen)))
        rises = {label: r.draws(subset)[at] - r.base(subset) for label, r in results.items()}
        return plot_spread(rises, ax=ax, ylabel="Rise of the loss", **options)

    def _summary(self) -> str:
        mean, error = self.rise()
        return f"rise {mean[-1]:.3g} ± {error[-1]:.1g} at radius {self.radii[-1]:g}, {self.losses.shape[1]} draws"
