r"""Checks of curvature against the loss itself, independent of products and eigenvectors.

Each check compares a number measured on the loss, with float64 sums, with the number that the curvature implies. They
differ by terms of higher order in the step, so the measurement is extrapolated from two step sizes, and the difference
between these is reported as its error. A kink of the loss within a step, such as that of a ReLU, adds to the measured
curvature, the more the smaller the step, but not to the Hessian: the two step sizes then disagree, and the error is
large.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from torch import Tensor

from sharpness.objective import Objective
from sharpness.probes.directions.gaussian import gaussian
from sharpness.statistics.estimate import mean_and_error

#: Intended rise of the loss over a step, relative to the loss.
RISE = 0.01
#: Longest step, relative to the norm of the weights.
LONGEST = 0.02
#: Longest noise, relative to the norm of the weights.
LONGEST_NOISE = 0.1


def check_eigenvalue(objective: Objective, name: str, value: float, vector: Tensor) -> dict[str, Any]:
    r"""Compare the rise along an eigenvector with ``value alpha^2 / 2``.

    Numbers are given as curvatures: :math:`(L(w + \alpha v) + L(w - \alpha v) - 2 L(w)) / \alpha^2`, extrapolated
    from alpha and alpha / 2.
    """
    objective = _with_fixed_statistics(objective)
    v = vector.to(objective.device, objective.dtype)
    base = objective.loss()
    alpha = _step(objective, value, base)
    coarse, fine = (2 * _even_rise(objective, step * v, base) / step**2 for step in (alpha, alpha / 2))
    measured = (4 * fine - coarse) / 3
    return _check("rise along the eigenvector", name, measured, value, abs(fine - coarse))


def check_trace(
    objective: Objective, name: str, value: float, error: float, draws: int = 20, seed: int = 0
) -> dict[str, Any]:
    r"""Compare the mean rise under Gaussian noise, :math:`E[L(w + \sigma z)] - L(w)`, with the trace.

    Their ratio should be :math:`\sigma^2 / 2`. Numbers are given as traces: the mean over pairs z, -z of the rise
    divided by :math:`\sigma^2 / 2`, extrapolated from sigma and sigma / 2. The error combines the standard errors of
    both estimates and the error of the extrapolation in quadrature.
    """
    objective = _with_fixed_statistics(objective)
    base = objective.loss()
    sigma = _step(objective, value, base, LONGEST_NOISE / objective.num_parameters**0.5) / 2
    rises = np.empty((draws, 2))
    for j in range(draws):
        z = gaussian(objective, j, seed, None)
        rises[j] = [2 * _even_rise(objective, step * z, base) / step**2 for step in (sigma, sigma / 2)]
    measured, spread = mean_and_error((4 * rises[:, 1] - rises[:, 0]) / 3)
    left = np.diff(rises.mean(axis=0))[0]
    total = float(np.linalg.norm([spread, error, left]))
    return _check("rise under Gaussian noise", name, float(measured), value, total)


def check_sum(name: str, parts: np.ndarray, shares: np.ndarray, whole: float) -> dict[str, Any]:
    r"""Compare the rows' traces, weighted by their shares, with the trace of all samples, for the same vectors."""
    measured = float(np.nansum(shares * parts))
    rounding = 1e-4 * float(np.nansum(shares * np.abs(parts)))
    return _check("weighted sum of the rows", name, measured, whole, rounding)


def _check(what: str, row: str, measured: float, expected: float, error: float) -> dict[str, Any]:
    return {"check": what, "row": row, "measured": measured, "expected": expected, "error": error}


def _with_fixed_statistics(objective: Objective) -> Objective:
    """The objective with fixed running statistics of BatchNorm, which the Hessian also treats as constants."""
    fixed = copy.copy(objective)
    fixed.batchnorm = "eval"
    return fixed


def _even_rise(objective: Objective, step: Tensor, base: float) -> float:
    with objective.at(step):
        up = objective.loss()
    with objective.at(-step):
        down = objective.loss()
    return (up + down) / 2 - base


def _step(objective: Objective, curvature: float, base: float, longest: float = LONGEST) -> float:
    """The length at which a curvature changes the loss by :data:`RISE` times the loss, up to a maximum."""
    wanted = (2 * RISE * abs(base) / abs(curvature)) ** 0.5 if curvature and base else np.inf
    return float(min(wanted, longest * objective.weight_norm or 1.0))
