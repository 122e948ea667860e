"""Precision of landscapes: bfloat16 if it saves time and its errors are small compared to the relief."""

from __future__ import annotations

import numpy as np

from sharpness.engine.flops import fast_bfloat16
from sharpness.errors import UserError, choose
from sharpness.objective import Objective
from sharpness.probes.landscapes.adaptive_grid import CLASS_TOLERANCE
from sharpness.probes.shared.point_table import USUAL

PRECISIONS = ("auto", "float32", "bfloat16")
#: Number of floating-point operations from which bfloat16 is tried: a second or two on two CPU cores.
WORTHWHILE = 2e11
#: Largest acceptable time in reduced precision, relative to the model's own precision, including comparisons.
GAIN = 0.8
#: Smallest acceptable ratio of relief to error.
RELIEF = 100.0
#: Smallest acceptable ratio of tolerance to error for interpolated landscapes. Interpolation treats noise as curvature:
#: with noise of a fifth of the tolerance it evaluates two thirds of the points of a bowl, with a third all of them.
RESOLVED = 10.0


def landscape_precision(objective: Objective, precision: str, points: int) -> str:
    """Resolve the precision of a landscape: ``"bfloat16"``, or the name of the model's own dtype.

    ``"auto"`` is bfloat16 for models in float32, on devices with instructions for it, if all points together take at
    least ``WORTHWHILE`` operations. Whether it :func:`pays` is decided after a pass of each has been timed.

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
    """True if reduced precision saves time, including the points that are evaluated in both precisions.

    Args:
        reduced, own: seconds of a pass in reduced and in the model's own precision.
        points: number of points.
        compared: number of points evaluated in both.
        adaptive: tolerance as a fraction of the relief, if points are interpolated.

    >>> pays(0.3, 1.0, 25, 9), pays(0.3, 1.0, 12, 9), pays(0.9, 1.0, 2601, 9)
    (True, False, False)
    """
    evaluated = points if adaptive is None else max(compared, USUAL * points)
    return reduced * evaluated + own * compared <= GAIN * own * evaluated


def spread_points(shape: tuple[int, ...]) -> np.ndarray:
    """Flat indices of the corners, midpoints of the sides, and centre of a grid (ny, nx) or a line (n,).

    >>> spread_points((3, 5)).tolist(), spread_points((4,)).tolist()
    ([0, 2, 4, 5, 7, 9, 10, 12, 14], [0, 2, 3])
    """
    axes = [np.unique([0, n // 2, n - 1]) for n in shape]
    return np.ravel_multi_index(np.meshgrid(*axes, indexing="ij"), shape).ravel()


def stands_out(reduced: np.ndarray, exact: np.ndarray, adaptive: float | None = None) -> bool:
    """True if every relief is at least ``RELIEF`` times the error of reduced precision.

    The error is the root mean square over some points. For an interpolated landscape, the tolerance must also be at
    least ``RESOLVED`` times the error.

    Args:
        reduced, exact: (n, S) losses of S subsets at n points; the first subset has all samples. Columns without a
            finite value are ignored.
        adaptive: tolerance as a fraction of the relief, if points are interpolated.
    """
    exact = np.where(np.isfinite(exact), exact, np.nan)
    present = ~np.isnan(exact).all(axis=0)
    exact, reduced = exact[:, present], reduced[:, present]
    tolerated = np.where(np.flatnonzero(present) == 0, 1.0, CLASS_TOLERANCE) * (adaptive or RESOLVED)
    relief = np.nanmax(exact, axis=0) - np.nanmin(exact, axis=0)
    off = np.where(np.isnan(exact), 0.0, np.square(reduced - np.nan_to_num(exact)))
    error = np.sqrt(off.sum(axis=0) / (~np.isnan(exact)).sum(axis=0))
    return bool((relief >= np.maximum(RELIEF, RESOLVED / tolerated) * error).all())
