"""The per-class table: one row per class, one column per measure, with standard errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from textwrap import fill
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd

from sharpness.errors import UserError, choose
from sharpness.results.base import Result
from sharpness.results.comparison import each, first_of, means, spreads
from sharpness.results.description import Description
from sharpness.results.estimates import Estimate, Subset, mean_of
from sharpness.results.picture import in_order, picture
from sharpness.results.runs import Runs
from sharpness.results.same import require_same
from sharpness.results.words import marks_in, near_zero
from sharpness.statistics.estimate import interval
from sharpness.untrusted.refused import Refused

#: Source of the errors in old files, which do not record it.
UNKNOWN = "images, draws or vectors"
#: Characters of a label that fit next to one of several panels.
LABEL = 20


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class MeasureResult(Result):
    """Measures of all samples together and of every class.

    Attributes:
        names: of the M measures, such as ``"lambda_max"``.
        overall: (M,) of all samples together.
        values: (M, C), NaN for a class without samples.
        standard_errors: (M, C), over images, random vectors or draws; NaN for what is not estimated.
        overall_standard_errors: (M,).
        group_standard_errors: (M, G) of the groups' means, in the order of ``groups``. NaN, or None in old files, means
            that classes are independent, so that their errors add in quadrature.
        train_counts: (C,) training images, -1 if unknown.
        lower, upper: (M, C) ends of 95 % intervals; None in old files.
        overall_lower, overall_upper: (M,) of all samples.
        group_lower, group_upper: (M, G) of the groups' means.
        over: (M,) source of variation of errors and intervals, such as "images" or "5 draws"; empty in old files.
        described: descriptions of measures by name, see :class:`~sharpness.results.description.Description`; other
            measures are shown by their names.
    """

    RENAMED: ClassVar = {
        "errors": "standard_errors",
        "overall_errors": "overall_standard_errors",
        "group_errors": "group_standard_errors",
    }
    SETTINGS: ClassVar = (
        "kind", "match_samples", "radius", "rho", "steps", "norm", "adaptive", "m", "factor", "drop", "damping"
    )  # fmt: skip
    ROWS: ClassVar[int] = 200

    names: tuple[str, ...]
    overall: Annotated[np.ndarray, "measure"]
    values: Annotated[np.ndarray, "measure", "class"]
    standard_errors: Annotated[np.ndarray, "measure", "class"]
    overall_standard_errors: Annotated[np.ndarray, "measure"]
    train_counts: Annotated[np.ndarray, "class"]
    lower: Annotated[np.ndarray | None, "measure", "class"] = None
    upper: Annotated[np.ndarray | None, "measure", "class"] = None
    overall_lower: Annotated[np.ndarray | None, "measure"] = None
    overall_upper: Annotated[np.ndarray | None, "measure"] = None
    group_standard_errors: Annotated[np.ndarray | None, "measure", "group"] = None
    group_lower: Annotated[np.ndarray | None, "measure", "group"] = None
    group_upper: Annotated[np.ndarray | None, "measure", "group"] = None
    over: tuple[str, ...] = ()
    described: dict[str, dict[str, Any]] = field(default_factory=dict)

    def validate(self) -> None:
        super().validate()
        try:
            for name in self.described:
                self.description(name).check()
        except (TypeError, ValueError) as error:
            raise Refused(f"describes a measure oddly: {error}") from None

    def description(self, name: str) -> Description:
        """The description of a measure: title, symbol, unit and bounds."""
        return Description.of(name, self.described.get(name))

    @property
    def symbols(self) -> dict[str, str]:
        return {name: symbol for name in self.names if (symbol := self.description(name).symbol)}

    def _frame(self) -> pd.DataFrame:
        """A row "all", one for each group (mean of its classes), one per class."""
        return pd.DataFrame([self._numbers(subset) for subset in self.subsets()])

    def _numbers(self, subset: Subset) -> dict[str, Any]:
        row = self.row(subset)
        if (self.train_counts >= 0).all():
            every = range(len(self.class_names))
            members = every if subset is None else self.groups[subset] if isinstance(subset, str) else [subset]
            row["train"] = int(self.train_counts[list(members)].sum())
        for m, measure in enumerate(self.names):
            found = self._estimate(measure, subset)
            row[measure] = found.value
            if np.isfinite(self.standard_errors[m]).any() or np.isfinite(self.overall_standard_errors[m]):
                row[f"{measure}_se"] = found.standard_error
            if self.lower is not None and (np.isfinite(self.lower[m]).any() or np.isfinite(self.overall_lower[m])):  # type: ignore[index]
                row |= {f"{measure}_lower": found.lower, f"{measure}_upper": found.upper}
        return row

    def keys(self) -> tuple[str, ...]:
        return self.names

    @property
    def main(self) -> str:
        """The only measure, or ``worst_rise`` of :func:`~sharpness.worst_case`."""
        if len(self.names) > 1 and self.provenance.get("probe") != "worst_case":
            raise UserError(f"of which measure? name one of {', '.join(self.names)}, as in table[{self.names[0]!r}]")
        return "worst_rise" if "worst_rise" in self.names else self.names[0]

    def _estimate(self, name: str, subset: Subset) -> Estimate:
        m = self.names.index(name)
        if subset is None:
            return _at(m, self.overall, self.overall_standard_errors, self.overall_lower, self.overall_upper)
        classes, of_classes = self.classes_of(subset), (self.values, self.standard_errors, self.lower, self.upper)
        if isinstance(classes, int):
            return _at((m, classes), *of_classes)
        found = mean_of([_at((m, c), *of_classes) for c in classes])
        # Known errors of a group replace those that follow for independent classes.
        at = m, list(self.groups).index(str(subset))
        known = _at(at, None, self.group_standard_errors, self.group_lower, self.group_upper)._asdict()
        return found._replace(**{part: value for part, value in known.items() if np.isfinite(value)})

    def notes_on(self, frame: pd.DataFrame) -> list[str]:
        notes = marks_in(frame, dict.fromkeys(self.names, UNKNOWN) | dict(zip(self.names, self.over, strict=False)))
        if self.groups:
            notes.append(f"{', '.join(self.groups)}: means over their classes; all: of all images together")
        saturated = self.provenance.get("saturated", {})
        if not isinstance(saturated, dict) or not saturated:
            return notes
        return [
            *notes,
            f"flat by saturation, more than half of the images with a loss below 1e-4: {', '.join(saturated)}",
        ]

    def _ends(self, m: int) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper ends of the intervals of measure m: of the classes (2, C), and of all samples (2,)."""
        if self.lower is None or self.upper is None or self.overall_lower is None or self.overall_upper is None:
            classes = interval(self.values[m], self.standard_errors[m])
            return classes, interval(self.overall[m], self.overall_standard_errors[m])
        overall = np.stack([self.overall_lower[m], self.overall_upper[m]])
        return np.stack([self.lower[m], self.upper[m]]), overall

    @picture("plot_class_values", classes=True)
    def compare(cls, results: Mapping[str, Any], ax: Any = None, measure: str | None = None, **options: Any) -> Any:
        """Draw one measure of every class, from most to fewest images, with models side by side.

        Bars are 95 % intervals. For several trainings, mean and spread are drawn, with the average error bar of one.

        Args:
            measure: name of a measure; by default ``"lambda_max"``, else ``"worst_rise"``, else the first. ``"all"``
                draws a panel for each measure on a new figure, and returns the list of Axes.
        """
        return cls._draw(results, ax, measure, **options)

    @classmethod
    def _draw(cls, results: Mapping[str, Any], ax: Any, measure: str | None, **options: Any) -> Any:
        """Draw one measure, or a panel for each, with the options in force.

        Pictures that hold this one call it, because :meth:`compare` would put the options of its own call in force.
        """
        require_same(each(results), shared=())
        if measure != "all":
            return cls._draw_one(results, ax, measure, **options)
        if ax is not None:
            raise UserError("measure='all' draws a figure of its own: leave ax out, or choose one measure")
        return cls._draw_all(results, **options)

    @classmethod
    def _draw_one(cls, results: Mapping[str, Any], ax: Any, measure: str | None, **options: Any) -> Any:
        from sharpness.plots import plot_class_values

        first = first_of(results)
        measure = measure or next((n for n in ("lambda_max", "worst_rise") if n in first.names), first.names[0])
        choose("measure", measure, first.names)
        for label, one in each(results).items():
            if measure not in one.names:
                shared = [name for name in first.names if all(name in r.names for r in each(results).values())]
                remedy = f"choose one of {', '.join(shared)}" if shared else "the results have none in common"
                raise UserError(f"{label!r} has no measure {measure!r}: {remedy}")
        # Some measures have no values by class, and get a single place for all samples.
        by_class = any(np.isfinite(r[measure].values).any() for r in each(results).values())
        known = bool((first.train_counts >= 0).all())
        order = np.argsort(-first.train_counts, kind="stable") if known else first.by_size()
        if not by_class:
            order = np.zeros(1, dtype=int)
        order = in_order(first.class_names, order) if by_class else order

        def rows(r: Any) -> np.ndarray:
            """Value, error and both ends (4, C) in the order of the picture, or (4, 1) of all samples."""
            m = r.names.index(measure)  # tables may have measures in different orders
            of_classes, of_all = r._ends(m)
            if by_class:
                return np.stack([r.values[m], r.standard_errors[m], *of_classes])[:, order]
            return np.stack([r.overall[m], r.overall_standard_errors[m], *of_all])[:, None]

        found = means(results, rows)
        shown = first.description(measure)
        over = dict(zip(first.names, first.over, strict=False)).get(measure, UNKNOWN)
        settings: dict[str, Any] = {"ylabel": shown.label, "over": over}
        if by_class and known:
            settings["counts"] = first.train_counts[order]
        return plot_class_values(
            {label: values for label, (values, *_) in found.items()},
            [first.class_names[c] for c in order] if by_class else ["all classes"],
            ax=ax,
            intervals={label: row[2:] for label, row in found.items()},
            doubtful={label: near_zero(values, errors) for label, (values, errors, *_) in found.items()},
            trainings=spreads(results, lambda r: rows(r)[0]),
            bounds=shown.bounds,
            **{**settings, **options},
        )

    @classmethod
    def _draw_all(cls, results: Mapping[str, Any], **options: Any) -> list[Any]:
        from sharpness.plots import stacked_axes
        from sharpness.plots.labels import doubtful_key
        from sharpness.plots.trainings import trainings_key

        first = first_of(results)
        axes = stacked_axes(len(first.names))
        # Texts of the figure belong to the first panel, whose legend explains the others.
        title, legend = options.pop("title", None), options.pop("legend", True)
        logs = [bool(options.get("log")) or _linthresh(results, name) is not None for name in first.names]
        # In reverse order, because the legend of the first panel explains the marks of all panels.
        for i, (name, ax) in reversed(list(enumerate(zip(first.names, axes, strict=True)))):
            settings: dict[str, Any] = {"legend": legend and i == 0, "title": title if i == 0 else None}
            shown = first.description(name)
            settings["linthresh"] = _linthresh(results, name)
            settings["ylabel"] = fill(shown.label, LABEL, break_long_words=False)
            if first.over and first.over[i] != first.over[0]:
                settings["ylabel"] += f"\n(over {first.over[i]})"
            if i == 0:
                near = any(line.get_gid() == "near zero" for other in axes[1:] for line in other.lines)
                settings["keys"] = [doubtful_key()] if near else []
                several = [r for r in results.values() if isinstance(r, Runs)]
                spread = {log for other, log in zip(axes, logs, strict=True) if _has_spread(other)}
                for log in sorted(spread, key=lambda log: log != logs[0]):
                    where = "" if log == logs[0] else "logarithmic axes" if log else "linear axes"
                    settings["keys"] += trainings_key(several, False, log, where)
            cls._draw_one(results, ax, name, **{**settings, **options})
            if i < len(axes) - 1:
                ax.set_xlabel("")
                ax.tick_params(labelbottom=False)
        axes[0].figure.align_ylabels(axes)
        return axes

    def _summary(self) -> str:
        return ", ".join(f"{n} {v:.4g}" for n, v in zip(self.names, self.overall, strict=True))


def _at(place: Any, *arrays: np.ndarray | None) -> Estimate:
    """The estimate at a place of arrays of values, errors and both ends; NaN where there is no array."""
    return Estimate(*(np.nan if array is None else float(array[place]) for array in arrays))


def _has_spread(ax: Any) -> bool:
    """True if a spread over trainings is drawn, which it is not of a crowd of classes."""
    return any(drawn.get_gid() == "spread" for drawn in ax.collections)


def _linthresh(results: Mapping[str, Any], measure: str) -> float | None:
    """The start of the logarithmic part of an axis: a power of ten, two to three decades below the largest value.

    None if the measure has a linear axis.
    """
    if not first_of(results).description(measure).symlog:
        return None
    found = [r[measure].values for r in each(results).values()]
    largest = max(np.abs(v).max(initial=0, where=np.isfinite(v)) for v in found)
    return float(10.0 ** (np.floor(np.log10(largest)) - 2)) if largest > 0 else None
