r"""The ends of a spectrum from three vectors: Lanczos' recurrence without a stored basis.

.. math:: \beta_j v_{j+1} = A v_j - \alpha_j v_j - \beta_{j-1} v_{j-1}

Because of rounding, converged eigenvectors reappear, and the spectrum contains copies. Its ends are nevertheless
correct, and :math:`\beta_m |s_{mi}|` still bounds their residuals (Paige, Linear Algebra and its Applications 34,
1980).
Eigenvectors need a stored basis: see :func:`~sharpness.curvature.lanczos.lanczos`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Unpack

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal

from sharpness.curvature.ends import Ends
from sharpness.curvature.krylov import inner, length
from sharpness.curvature.lanczos import PATIENCE, WHOLE, start_of
from sharpness.curvature.operator import Operator, Product, StartOptions
from sharpness.keywords import typed_keywords


@dataclass(frozen=True)
class Extremes:
    """The ends of a spectrum, without vectors; arrays as in :class:`~sharpness.curvature.lanczos.Eigenpairs`."""

    values: np.ndarray
    residuals: np.ndarray
    converged: np.ndarray
    products: int


@typed_keywords()
def extremes(
    product: Product,
    size: int,
    which: str = "LA",
    *,
    tol: float = 1e-3,
    max_iterations: int = 200,
    **options: Unpack[StartOptions],
) -> Extremes:
    """Find the largest eigenvalue, the smallest, or both, storing only three vectors.

    Arguments, tolerances and stopping rule are those of :func:`~sharpness.curvature.lanczos.lanczos` with ``k=1``.

    >>> found = extremes(lambda v: torch.tensor([3.0, 1.0, -2.0], dtype=v.dtype) * v, 3, "both")
    >>> found.values.round(6).tolist()
    [3.0, -2.0]
    """
    dtype = options["dtype"]
    operator = Operator(product, options["callback"], options["generator"], dtype, options["device"])
    ends = Ends(size, 1, which, tol, max_iterations, str(dtype))
    v = start_of(size, operator.generator, options["start"]).to(device=operator.device, dtype=dtype)
    v, before = v / length(v), torch.zeros_like(v)
    alpha: list[float] = []
    beta: list[float] = []
    while True:
        # Out of place, because the returned tensor may belong to the operator.
        r = torch.sub(operator(v), before, alpha=beta[-1] if beta else 0.0)
        alpha.append(float(inner(v[None], r)[0]))
        r.sub_(v, alpha=alpha[-1])
        beta.append(length(r))
        theta, s = eigh_tridiagonal(np.array(alpha), np.array(beta[:-1]))
        extent, steps = (float(theta[0]), float(theta[-1])), len(alpha)
        scale = max(map(abs, extent))
        exhausted = steps == size or beta[-1] <= 50 * torch.finfo(dtype).eps * scale
        patient = exhausted or steps >= PATIENCE
        bounds = beta[-1] * np.abs(s[-1])
        found, settled = ends.judge(theta, bounds, np.empty(0), extent, patient)
        if exhausted or (settled and size > WHOLE) or steps >= max_iterations:
            converged = bounds[found] <= ends.allowed(theta[found], scale, patient)
            return Extremes(theta[found], bounds[found], converged, operator.products)
        before, v = v, r.div_(beta[-1])
