"""Precision of landscapes: bfloat16 where it pays, if the relief stands out from its errors."""

from __future__ import annotations

import numpy as np

from sharpness.engine.flops import fast_bfloat16
from sharpness.errors import UserError, choose
from sharpness.objective import Objective
from sharpness.probes.landscapes.adaptive_grid import CLASS_TOLERANCE
from sharpness.probes.shared.point_table import USUAL

PRECISIONS = ("auto", "float32", "bfloat16")
#: Floating-point operations from which a landscape is worth the attempt: a second or two of two CPU cores.
WORTHWHILE = 2e11
#: The time that reduced precision must leave, of that of the model's own, comparisons included.
GAIN = 0.8
#: Smallest relief of a landscape over the error.
RELIEF = 100.0
#: Smallest tolerance of an interpolated landscape over the error. Interpolation takes noise for bends:
#: that of a fifth of the tolerance makes it evaluate two thirds of the points of a bowl, that of a third all of them.
RESOLVED = 10.0


def landscape_precision(objective: Objective, precision: str, points: int) -> str:
    """Resolve the precision of a landscape: ``"bfloat16"``, or the name of the model's own dtype.

    ``"auto"`` is bfloat16 for models in float32, on devices with instructions for it, where all points together take
    at least ``WORTHWHILE`` operations; whether it :func:`pays` is known when a pass of each has been timed.

    Raises:
        UserError: an unknown precision, or another one than the model's.
    """
    choose("precision", precision, PRECISIONS)
    own = objective.precision
    if precision == "auto":
        worthwhile = points * objective.num_samples * objective.flops_per_sample >= WORTHWHILE
        return "bfloat16" if own == "float32" and worthwhile and fast_bfloat16(objective.device) else own
    if precision != own and (precision == "float32" or own != "float32"):
        raise UserError(f"precision={precision!r}, but the model is in {own}: convert the model, or take 'auto'")
    return precision


def pays(reduced: float, own: float, points: int, compared: int, adaptive: float | None = None) -> bool:
    """True if a landscape takes less time in reduced precision, with some points in both, than in the model's own.

    Args:
        reduced, own: seconds of a pass.
        points: all of them.
        compared: those in both.
        adaptive: the part of the relief that is to be resolved, where points are interpolated.

    >>> pays(0.3, 1.0, 25, 9), pays(0.3, 1.0, 12, 9), pays(0.9, 1.0, 2601, 9)
    (True, False, False)
    """
    evaluated = points if adaptive is None else max(compared, USUAL * points)
    return reduced * evaluated + own * compared <= GAIN * own * evaluated


def spread_points(shape: tuple[int, ...]) -> np.ndarray:
    """Corners, middles of the sides, and the centre of a grid (ny, nx) or a line (n,): flat indices.

    >>> spread_points((3, 5)).tolist(), spread_points((4,)).tolist()
    ([0, 2, 4, 5, 7, 9, 10, 12, 14], [0, 2, 3])
    """
    axes = [np.unique([0, n // 2, n - 1]) for n in shape]
    return np.ravel_multi_index(np.meshgrid(*axes, indexing="ij"), shape).ravel()


def stands_out(reduced: np.ndarray, exact: np.ndarray, adaptive: float | None = None) -> bool:
    """True if every relief is at least ``RELIEF`` times the error of reduced precision.

    The error is the root mean square over some points. The tolerance of an interpolated landscape must be ``RESOLVED``
    times as large.

    Args:
        reduced, exact: (n, S) losses of S subsets at n points, the first one of all samples; columns without a finite
            value are left out.
        adaptive: the part of the relief that is to be resolved.
    """
    exact = np.where(np.isfinite(exact), exact, np.nan)
    present = ~np.isnan(exact).all(axis=0)
    exact, reduced = exact[:, present], reduced[:, present]
    tolerated = np.where(np.flatnonzero(present) == 0, 1.0, CLASS_TOLERANCE) * (adaptive or RESOLVED)
    relief = np.nanmax(exact, axis=0) - np.nanmin(exact, axis=0)
    off = np.where(np.isnan(exact), 0.0, np.square(reduced - np.nan_to_num(exact)))
    error = np.sqrt(off.sum(axis=0) / (~np.isnan(exact)).sum(axis=0))
    return bool((relief >= np.maximum(RELIEF, RESOLVED / tolerated) * error).all())
