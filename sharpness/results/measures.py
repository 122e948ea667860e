"""The per-class table: one row per class, one column per measure, with standard errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from sharpness.errors import choose
from sharpness.plots import plot_class_values
from sharpness.results.base import Result


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class MeasureResult(Result):
    """Measures of all samples together and of every class.

    Attributes:
        names: of the M measures, such as ``"lambda_max"``.
        overall: (M,) of all samples together.
        values: (M, C), NaN for a class without samples.
        errors: (M, C) standard errors, over images, random vectors or draws; NaN for what is not estimated.
        overall_errors: (M,).
        train_counts: (C,) training images, -1 where unknown.
        lower, upper: (M, C) 95 % bootstrap interval over samples, or None if it was not asked for.
        overall_lower, overall_upper: (M,) likewise.
    """

    DIMENSIONS: ClassVar = {
        "overall": ("measure",),
        "values": ("measure", "class"),
        "errors": ("measure", "class"),
        "overall_errors": ("measure",),
        "train_counts": ("class",),
        "lower": ("measure", "class"),
        "upper": ("measure", "class"),
        "overall_lower": ("measure",),
        "overall_upper": ("measure",),
    }

    names: tuple[str, ...]
    overall: np.ndarray
    values: np.ndarray
    errors: np.ndarray
    overall_errors: np.ndarray
    train_counts: np.ndarray
    lower: np.ndarray | None = None
    upper: np.ndarray | None = None
    overall_lower: np.ndarray | None = None
    overall_upper: np.ndarray | None = None

    def to_frame(self) -> pd.DataFrame:
        """A row "all", one for each group (mean of its classes), one per class.

        Standard errors stand in a column ``<measure>_se`` beside their measure.
        """
        rows = [self._row("all", "", None)]
        rows += [self._row(g, g, g) for g, classes in self.groups.items() if classes]
        rows += [self._row(name, self.group_of(c), c) for c, name in enumerate(self.class_names)]
        return pd.DataFrame(rows)

    def _row(self, name: str, group: str, subset: str | int | None) -> dict[str, Any]:
        members = list(range(len(self.class_names)))
        if isinstance(subset, str):
            members = list(self.groups[subset])
        elif subset is not None:
            members = [subset]
        row: dict[str, Any] = {
            "class": name,
            "group": group,
            "samples": int(self.class_samples[members].sum()),
        }
        if (self.train_counts >= 0).all():
            row["train"] = int(self.train_counts[members].sum())
        for m, measure in enumerate(self.names):
            row[measure] = float(self.select(self.values[m], subset, self.overall[m]))
            if np.isfinite(self.errors[m]).any() or np.isfinite(self.overall_errors[m]):
                squares = self.errors[m][members] ** 2
                error = self.overall_errors[m] if subset is None else squares.sum() ** 0.5 / len(members)
                row[f"{measure}_se"] = float(error)
            for side in ("lower", "upper"):
                of_classes, of_all = getattr(self, side), getattr(self, f"overall_{side}")
                if of_classes is None:
                    continue
                bound = np.nan  # a group's mean has none
                if subset is None and of_all is not None:
                    bound = of_all[m]
                elif isinstance(subset, int):
                    bound = of_classes[m, subset]
                row[f"{measure}_{side}"] = float(bound)
        return row

    @classmethod
    def compare(cls, results: Mapping[str, Any], ax: Any = None, measure: str | None = None, **options: Any) -> Any:
        """One measure of every class, model beside model: ``"lambda_max"``, or the first there is, unless given."""
        first = next(iter(results.values()))
        measure = measure or ("lambda_max" if "lambda_max" in first.names else first.names[0])
        choose("measure", measure, first.names)
        by_class = any(np.isfinite(r.values[r.names.index(measure)]).any() for r in results.values())
        order = first.by_size() if by_class else [0]

        def pick(side: str) -> dict[str, np.ndarray]:
            """Of every model, (C,) in the order of the picture, or (1,) of all samples; NaN for what it has not."""
            found = {}
            for label, r in results.items():
                of_classes, of_all = {
                    "value": (r.values, r.overall),
                    "error": (r.errors, r.overall_errors),
                    "lower": (r.lower, r.overall_lower),
                    "upper": (r.upper, r.overall_upper),
                }[side]
                chosen = of_classes if by_class else of_all
                numbers = np.full(len(order), np.nan)
                if chosen is not None:
                    numbers = np.atleast_1d(chosen[r.names.index(measure)])[order]
                found[label] = numbers
            return found

        bounded = any(r.lower is not None for r in results.values())
        lower, upper = pick("lower"), pick("upper")
        return plot_class_values(
            pick("value"),
            [first.class_names[c] for c in order] if by_class else ["all classes"],
            ax=ax,
            errors=None if bounded else pick("error"),
            intervals={label: np.stack([lower[label], upper[label]]) for label in results} if bounded else None,
            ylabel=measure.replace("_", " "),
            **options,
        )

    def _summary(self) -> str:
        return ", ".join(f"{n} {v:.4g}" for n, v in zip(self.names, self.overall, strict=True))
