"""One measure of a result, by class and group, with its standard errors and intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from sharpness.statistics.estimate import interval, mean_interval_of

#: A mean over more classes than this is treated as normally distributed, whatever the distributions of the classes.
NORMAL = 30
#: Everything (None), a class (its index or name), or a group.
Subset = str | int | None


class Estimate(NamedTuple):
    """A value, its standard error and the ends of its 95 % interval: floats, or arrays of one shape. NaN if unknown."""

    value: Any
    standard_error: Any = np.nan
    lower: Any = np.nan
    upper: Any = np.nan

    def columns(self, name: str) -> dict[str, Any]:
        """The columns of a table that hold it.

        >>> Estimate(1.0, 0.5, 0.0, 2.0).columns("loss")
        {'loss': 1.0, 'loss_se': 0.5, 'loss_lower': 0.0, 'loss_upper': 2.0}
        """
        return dict(zip((name, f"{name}_se", f"{name}_lower", f"{name}_upper"), self, strict=True))


def mean_of(classes: Sequence[Estimate], independent: bool = True) -> Estimate:
    """The mean of estimates, such as those of a group's classes.

    Errors and the sides of intervals add in quadrature if the estimates are independent. If they share random vectors,
    they add linearly, which is an upper bound. A mean of more than 30 independent estimates has a normal interval.

    >>> classes = Estimate(1.0, 3.0, -2.0, 4.0), Estimate(3.0, 4.0, -1.0, 7.0)
    >>> mean_of(classes)
    Estimate(value=2.0, standard_error=2.5, lower=-0.5, upper=4.5)
    >>> mean_of(classes, independent=False)
    Estimate(value=2.0, standard_error=3.5, lower=-1.5, upper=5.5)
    """
    if not classes:
        return Estimate(np.nan)
    values, errors, *ends = np.array(classes, dtype=float).T
    if not independent:
        return Estimate(*(float(numbers.mean()) for numbers in (values, errors, *ends)))
    value, error = float(values.mean()), float(np.sqrt((errors**2).sum()) / len(errors))
    if len(values) <= NORMAL:
        return Estimate(value, error, *mean_interval_of(values, np.stack(ends)).tolist())
    # Not from the ends: the very wide intervals of a few classes of two images would outweigh all others in quadrature.
    one_sign = bool((ends[0] > 0).all() or (ends[1] < 0).all())
    between = interval(value, error, keeps_sign=one_sign).clip(ends[0].min(), ends[1].max())
    return Estimate(value, error, *between.tolist())


class Estimates:
    """One measure of a result: ``table["loss"].overall``, ``table["loss"].of("few")``, ``table["loss"].values``.

    Values are floats, or arrays where a measure depends on more than the samples, such as the radius of a perturbation.

    Args:
        name: name of the measure.
        classes: number of classes, C.
        estimate: returns the estimate for all samples (None), a class (its index or name) or a group.
    """

    def __init__(self, name: str, classes: int, estimate: Callable[[Subset], Estimate]) -> None:
        self.name, self._classes, self._estimate = name, classes, estimate

    def estimate(self, subset: Subset = None) -> Estimate:
        """The value of :meth:`of` with its standard error and the ends of its interval."""
        return self._estimate(subset)

    def of(self, subset: Subset = None) -> Any:
        """The value of all samples, of a class by index or name, or of a group: the mean of its classes that have
        samples.

        Raises:
            UserError: an unknown class or group.
        """
        return self._estimate(subset).value

    def standard_error(self, subset: Subset = None) -> Any:
        """The standard error of :meth:`of`, NaN where it is not known."""
        return self._estimate(subset).standard_error

    def interval(self, subset: Subset = None) -> tuple[Any, Any]:
        """The ends of the 95 % interval of :meth:`of`, NaN where it is not known."""
        return self._estimate(subset)[2:]

    @property
    def overall(self) -> Any:
        """The value of all samples together."""
        return self.of()

    @property
    def values(self) -> np.ndarray:
        """The values of the classes, (C, ...)."""
        return self._of_classes("value")

    @property
    def standard_errors(self) -> np.ndarray:
        """The standard errors of the classes' values, (C, ...)."""
        return self._of_classes("standard_error")

    @property
    def intervals(self) -> np.ndarray:
        """Lower and upper ends of the 95 % intervals of the classes' values, (2, C, ...)."""
        return np.stack([self._of_classes("lower"), self._of_classes("upper")])

    def _of_classes(self, part: str) -> np.ndarray:
        return np.array([getattr(self._estimate(c), part) for c in range(self._classes)], dtype=float)

    def __repr__(self) -> str:
        return f"Estimates({self.name} of {self._classes} classes: .overall, .of(subset), .values, .standard_errors)"
