"""Classes and groups that results are split by: their names, indices, samples and means."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np

from sharpness.errors import UserError
from sharpness.identity import ONE_CLASS
from sharpness.results.estimates import Subset


class Split:
    """The classes and groups of a result. A subset is everything (None), a class (its index or name) or a group."""

    class_names: tuple[str, ...]
    class_samples: np.ndarray
    class_weights: np.ndarray | None
    groups: dict[str, tuple[int, ...]]
    provenance: dict[str, Any]

    @property
    def has_classes(self) -> bool:
        """False if the only class is "all", whose numbers are those of all samples."""
        return self.class_names != ONE_CLASS

    def subsets(self) -> list[Subset]:
        """All samples (None), the groups that have classes, and the classes if samples are split by class."""
        classes = range(len(self.class_names)) if self.has_classes else ()
        return [None, *(g for g, members in self.groups.items() if members), *classes]

    def row(self, subset: Subset) -> dict[str, Any]:
        """The columns of a table that identify its rows: class, group and samples."""
        if subset is None:
            return {"class": "all", "group": "", "samples": int(self.class_samples.sum())}
        classes = self.classes_of(subset)
        name, group = (self.class_names[classes], self.group_of(classes)) if isinstance(classes, int) else (subset,) * 2
        return {"class": name, "group": group, "samples": int(self.class_samples[classes].sum())}

    @property
    def of_groups(self) -> bool:
        """True if a row was computed from all samples of a group: then ``class_names`` are names of groups."""
        return bool(self.provenance.get("rows") == "groups")

    @property
    def rarest_class(self) -> int:
        """The class with the fewest probed samples; in a tie, the last one."""
        present = np.where(self.class_samples > 0, self.class_samples, np.iinfo(np.int64).max)
        return int(len(present) - 1 - np.argmin(present[::-1]))

    def by_size(self) -> np.ndarray:
        """Class indices (C,) from most to fewest probed samples; of groups, the order in which they are defined."""
        if self.of_groups:
            return np.arange(len(self.class_names))  # ordered by training images, not by probed samples
        return np.argsort(-self.class_samples, kind="stable")

    def select(self, class_values: np.ndarray, subset: Subset, overall: np.ndarray) -> np.ndarray:
        """Values for all samples (None), for a class (an int or a class name), or for a group (a group name).

        Args:
            class_values: (C, ...), one value or array per class.
            overall: (...), of all samples together.
        """
        if subset is None:
            return overall
        classes = self.classes_of(subset)
        if isinstance(classes, int):
            return class_values[classes]
        return class_values[classes].mean(axis=0) if classes else np.full_like(overall, np.nan)

    def classes_of(self, subset: str | int) -> int | list[int]:
        """The index of a class, or the indices of those classes of a group that have samples.

        Raises:
            UserError: an unknown class or group.
        """
        if isinstance(subset, str) and subset in self.groups:
            return [c for c in self.groups[subset] if self.class_samples[c]]
        if isinstance(subset, str) and subset in self.class_names:
            return self.class_names.index(subset)
        if not isinstance(subset, Integral) or isinstance(subset, bool) or not 0 <= subset < len(self.class_names):
            known = ", ".join([*self.groups, *self.class_names])
            raise UserError(f"unknown class or group {subset!r}: choose one of {known}, or a class index")
        return int(subset)

    def pooled(self, class_means: np.ndarray) -> np.ndarray:
        """Means over all samples (...) from those of every class (C, ...), weighted by the classes' sample weights."""
        present = self.class_samples > 0
        weights = (self.class_samples if self.class_weights is None else self.class_weights)[present]
        return np.tensordot(weights / weights.sum(), class_means[present], 1)

    def group_of(self, class_index: int) -> str:
        """The group of a class, or an empty string. In a result per group, each row is its own group."""
        if self.of_groups:
            return self.class_names[class_index]
        return next((g for g, classes in self.groups.items() if class_index in classes), "")
