"""Where landscapes may be evaluated in bfloat16, and whether they should have been."""

from __future__ import annotations

import numpy as np

from sharpness.engine import fast_bfloat16
from sharpness.errors import UserError, choose
from sharpness.objective import Objective

PRECISIONS = ("auto", "float32", "bfloat16")
#: Floating-point operations from which a landscape is worth reduced precision: about a minute of two CPU cores.
WORTHWHILE = 1e13
#: How many times the error at the centre the relief of a landscape must be.
RELIEF = 100.0


def landscape_precision(objective: Objective, precision: str, points: int) -> str:
    """``"bfloat16"``, or the name of the model's own dtype.

    ``"auto"`` is bfloat16 for models in float32, on devices with instructions for it, where all points together take
    at least :data:`WORTHWHILE` operations.

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


def stands_out(values: np.ndarray, error: np.ndarray, adaptive: float | None = None) -> bool:
    """Whether every landscape's relief is at least :data:`RELIEF` times its error.

    Args:
        values: (n, S) losses of S subsets; columns without a finite value are left out.
        error: (S,)
        adaptive: the part of the relief that is to be resolved; its inverse counts if it is more.
    """
    times = max(RELIEF, 1 / (adaptive or 1.0))
    finite = np.where(np.isfinite(values), values, np.nan)
    present = ~np.isnan(finite).all(axis=0)
    relief = np.nanmax(finite[:, present], axis=0) - np.nanmin(finite[:, present], axis=0)
    return bool((relief >= times * error[present]).all())
