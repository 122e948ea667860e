r"""Curvature against the loss itself, which knows nothing of products or eigenvectors.

Each check compares a number measured on the loss, in float64 sums, with the one that the curvature implies. They differ
by the terms of higher order that the steps leave, so two step sizes are taken and extrapolated, and what they differ by
is the error that is reported. A kink of the loss, such as a ReLU's, between the two ends of a step counts as curvature
there and not in the Hessian, the more the smaller the step: the two sizes then disagree, and the error is large.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from torch import Tensor

from sharpness.objective import Objective
from sharpness.probes.directions.gaussian import gaussian
from sharpness.statistics.estimate import mean_and_error

#: Rise of the loss that steps aim at, relative to the loss.
RISE = 0.01
#: Longest step, relative to the norm of the weights.
LONGEST = 0.02
#: Length of the longest noise, in the same unit.
LONGEST_NOISE = 0.1


def check_eigenvalue(objective: Objective, name: str, value: float, vector: Tensor) -> dict[str, Any]:
    r"""The rise along an eigenvector against ``value alpha^2 / 2``.

    Given as curvatures: :math:`(L(w + \alpha v) + L(w - \alpha v) - 2 L(w)) / \alpha^2`, extrapolated from alpha and
    alpha / 2.
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
    r"""The mean rise under Gaussian noise, :math:`E[L(w + \sigma z)] - L(w)`, against ``sigma^2 / 2`` times the trace.

    Given as traces: the mean over pairs z, -z of the rise divided by :math:`\sigma^2 / 2`, extrapolated from sigma and
    sigma / 2, with the standard errors of both estimates and the error of the extrapolation added in squares.
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
    r"""The rows' traces, weighted by their shares, against the trace of all samples, from the same random vectors."""
    measured = float(np.nansum(shares * parts))
    rounding = 1e-4 * float(np.nansum(shares * np.abs(parts)))
    return _check("weighted sum of the rows", name, measured, whole, rounding)


def _check(what: str, row: str, measured: float, expected: float, error: float) -> dict[str, Any]:
    return {"check": what, "row": row, "measured": measured, "expected": expected, "error": error}


def _with_fixed_statistics(objective: Objective) -> Objective:
    """The objective with the running statistics of BatchNorm at every point, which the Hessian holds fixed as well."""
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
    """The length at which a curvature raises the loss by :data:`RISE` of itself, but not too long."""
    wanted = (2 * RISE * abs(base) / abs(curvature)) ** 0.5 if curvature and base else np.inf
    return float(min(wanted, longest * objective.weight_norm or 1.0))
