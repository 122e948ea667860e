"""The per-class table: one row per class, one column per measure, with standard errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from sharpness.curvature import interval
from sharpness.errors import UserError, choose
from sharpness.plots import plot_class_values, stacked_axes
from sharpness.plots.labels import doubtful_key
from sharpness.results.base import Result
from sharpness.results.comparison import each, first_of, means, spreads
from sharpness.results.picture import in_order, picture
from sharpness.results.same import require_same
from sharpness.results.words import marks_in, near_zero

#: How pictures spell measures.
LABELS = {
    "accuracy": "Accuracy",
    "loss": "Loss",
    "lambda_max": r"$\lambda_\mathrm{max}$",
    "lambda_min": r"$\lambda_\mathrm{min}$",
    "trace": "Trace",
    "random_rise": "Random rise",
    "worst_rise": "Worst rise",
}


#: What errors in files of old are over, which do not say it.
UNKNOWN = "images, draws or vectors"
#: Of both signs and any size: beside each other on an axis that is logarithmic from a hundredth of the largest on.
CURVATURES = ("lambda_max", "lambda_min", "trace")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class MeasureResult(Result):
    """Measures of all samples together and of every class.

    Attributes:
        names: of the M measures, such as ``"lambda_max"``.
        overall: (M,) of all samples together.
        values: (M, C), NaN for a class without samples.
        errors: (M, C) standard errors, over images, random vectors or draws; NaN for what is not estimated.
        overall_errors: (M,).
        group_errors: (M, G) of the groups' means, in the order of ``groups``; NaN, or None in files from before they
            were kept, where classes are independent, so that their errors add up in squares.
        train_counts: (C,) training images, -1 where unknown.
        lower, upper: (M, C) ends of 95 % intervals; None in files from before they were kept.
        overall_lower, overall_upper: (M,) likewise.
        group_lower, group_upper: (M, G) likewise, of the groups' means.
        over: (M,) what errors and intervals are over, such as "images" or "5 draws"; empty in files of old.
    """

    DIMENSIONS: ClassVar = {
        "overall": ("measure",),
        "values": ("measure", "class"),
        "errors": ("measure", "class"),
        "overall_errors": ("measure",),
        "group_errors": ("measure", "group"),
        "train_counts": ("class",),
        "lower": ("measure", "class"),
        "upper": ("measure", "class"),
        "overall_lower": ("measure",),
        "overall_upper": ("measure",),
        "group_lower": ("measure", "group"),
        "group_upper": ("measure", "group"),
    }

    ROWS: ClassVar[int] = 200

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
    group_errors: np.ndarray | None = None
    group_lower: np.ndarray | None = None
    group_upper: np.ndarray | None = None
    over: tuple[str, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """A row "all", one for each group (mean of its classes), one per class.

        Standard errors stand in a column ``<measure>_se`` beside their measure, ends of intervals of 95 % in
        ``<measure>_lower`` and ``<measure>_upper``.
        """
        rows = [self._row("all", "", None)]
        rows += [self._row(g, g, g) for g, classes in self.groups.items() if classes]
        if self.has_classes:
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
                row[f"{measure}_se"] = self._error(m, subset)
            for side in ("lower", "upper"):
                of_classes, of_all = getattr(self, side), getattr(self, f"overall_{side}")
                if of_classes is None or not (np.isfinite(of_classes[m]).any() or np.isfinite(of_all[m])):
                    continue
                if isinstance(subset, str):
                    of_groups = getattr(self, f"group_{side}")
                    bound = np.nan if of_groups is None else of_groups[m, list(self.groups).index(subset)]
                else:
                    bound = of_all[m] if subset is None else of_classes[m, subset]
                row[f"{measure}_{side}"] = float(bound)
        return row

    def _error(self, m: int, subset: str | int | None) -> float:
        """The standard error of measure m: of everything, of a group's mean, or of a class."""
        if subset is None:
            return float(self.overall_errors[m])
        if not isinstance(subset, str):
            return float(self.errors[m, subset])
        if self.group_errors is not None and np.isfinite(
            known := self.group_errors[m, list(self.groups).index(subset)]
        ):
            return float(known)
        squares = self.errors[m, [c for c in self.groups[subset] if self.class_samples[c]]] ** 2
        return float(squares.sum() ** 0.5 / len(squares))

    def notes_on(self, frame: pd.DataFrame) -> list[str]:
        return marks_in(frame, dict.fromkeys(self.names, UNKNOWN) | dict(zip(self.names, self.over, strict=False)))

    def _ends(self, m: int) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper ends of the intervals of measure m: of the classes (2, C), and of everything (2,)."""
        if self.lower is None or self.upper is None or self.overall_lower is None or self.overall_upper is None:
            return interval(self.values[m], self.errors[m]), interval(self.overall[m], self.overall_errors[m])
        classes, overall = (self.lower, self.upper), (self.overall_lower, self.overall_upper)
        return np.stack([side[m] for side in classes]), np.stack([side[m] for side in overall])

    @classmethod
    @picture(plot_class_values, classes=True)
    def compare(cls, results: Mapping[str, Any], ax: Any = None, measure: str | None = None, **options: Any) -> Any:
        """One measure of every class, model beside model, from most to fewest images; bars are 95 % intervals.

        Of several trainings mean and spread, beside the error bars of one training, on average.

        Args:
            measure: ``"lambda_max"``, else ``"worst_rise"``, else the first there is, unless given; ``"all"`` draws a
                panel for each in a figure of their own, and returns the list of Axes.
        """
        require_same(each(results), shared=())
        first = first_of(results)
        if measure == "all":
            if ax is not None:
                raise UserError("measure='all' draws a figure of its own: leave ax out, or choose one measure")
            return cls._draw_all(results, **options)
        measure = measure or next((n for n in ("lambda_max", "worst_rise") if n in first.names), first.names[0])
        choose("measure", measure, first.names)
        by_class = any(np.isfinite(r.values[r.names.index(measure)]).any() for r in each(results).values())
        known = bool((first.train_counts >= 0).all())
        order = np.argsort(-first.train_counts, kind="stable") if known else first.by_size()
        if not by_class:
            order = np.zeros(1, dtype=int)
        order = in_order(first.class_names, order) if by_class else order

        def side_of(side: str) -> Any:
            """Of a result, (C,) in the order of the picture, or (1,) of all samples."""

            def pick(r: Any) -> np.ndarray:
                m = r.names.index(measure)
                of_classes, of_all = r._ends(m)
                chosen = {
                    "value": (r.values[m], r.overall[m]),
                    "error": (r.errors[m], r.overall_errors[m]),
                    "lower": (of_classes[0], of_all[0]),
                    "upper": (of_classes[1], of_all[1]),
                }[side]
                return np.atleast_1d(chosen[0 if by_class else 1])[order]

            return pick

        def pick(side: str) -> dict[str, np.ndarray]:
            """Of every model; of several trainings their mean, of errors that of one training on average."""
            return means(results, side_of(side))

        values, errors, lower, upper = (pick(side) for side in ("value", "error", "lower", "upper"))
        settings: dict[str, Any] = {"ylabel": LABELS.get(measure, measure.replace("_", " "))}
        settings["over"] = first.over[first.names.index(measure)] if first.over else UNKNOWN
        if by_class and known:
            settings["counts"] = first.train_counts[order]
        return plot_class_values(
            values,
            [first.class_names[c] for c in order] if by_class else ["all classes"],
            ax=ax,
            intervals={label: np.stack([lower[label], upper[label]]) for label in results},
            doubtful={label: near_zero(values[label], errors[label]) for label in results},
            trainings=spreads(results, side_of("value")),
            bounds=(0, 1) if measure == "accuracy" else None,
            **{**settings, **options},
        )

    @classmethod
    def _draw_all(cls, results: Mapping[str, Any], **options: Any) -> list[Any]:
        first = first_of(results)
        axes = stacked_axes(len(first.names))
        # From the last to the first, whose legend explains what is in any of them.
        for i, (name, ax) in reversed(list(enumerate(zip(first.names, axes, strict=True)))):
            settings: dict[str, Any] = {"legend": i == 0}
            if name in CURVATURES:
                settings["linthresh"] = _linthresh(results, name)
            if first.over and first.over[i] != first.over[0]:
                settings["ylabel"] = f"{LABELS.get(name, name)}\n(over {first.over[i]})"
            if i == 0 and any(line.get_gid() == "near zero" for other in axes[1:] for line in other.lines):
                settings["keys"] = [doubtful_key()]
            cls.compare(results, ax, name, **{**settings, **options})
            if i < len(axes) - 1:
                ax.set_xlabel("")
                ax.tick_params(labelbottom=False)
        axes[0].figure.align_ylabels(axes)
        return axes

    def _summary(self) -> str:
        return ", ".join(f"{n} {v:.4g}" for n, v in zip(self.names, self.overall, strict=True))


def _linthresh(results: Mapping[str, Any], measure: str) -> float | None:
    """Where the logarithmic part of an axis begins: a power of ten, two or three below the largest value."""
    found = [r.values[r.names.index(measure)] for r in each(results).values()]
    largest = max(np.abs(v).max(initial=0, where=np.isfinite(v)) for v in found)
    return float(10.0 ** (np.floor(np.log10(largest)) - 2)) if largest > 0 else None
