r"""Shares of the classes in the eigenvalues of the whole loss, for given eigenvectors.

With :math:`A_c` the weight of class c and A their sum, :math:`L = \sum_c (A_c / A) L_c`, and for an eigenvector

.. math:: \lambda_j = v_j' H v_j = \sum_c \frac{A_c}{A}\, v_j' H_c v_j
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor

from sharpness.engine.class_sums import mean_error
from sharpness.errors import UserError
from sharpness.objective import Objective
from sharpness.probes.shared.cost import Cost, announce
from sharpness.progress import progress
from sharpness.results import EigenvalueResult, OwnersResult

#: Change of the quadratic approximation of the loss that determines the default length of a step.
RISE = 0.1
#: Largest difference between v'Hv and the eigenvalue, relative to the eigenvalue, by precision.
AGREE = {torch.float64: 1e-5, torch.float32: 1e-3}
logger = logging.getLogger("sharpness")


def owners_of(objective: Objective, found: EigenvalueResult, epsilon: float | None = None) -> OwnersResult:
    """Find the owners of given eigenvectors, see :func:`~sharpness.owners`.

    Returns:
        Shares, slopes and changes of accuracy.

    Raises:
        UserError: eigenvalues of single classes, without vectors, or of other weights or samples, or a distance that is
            not positive.
    """
    require_distance(epsilon)
    _require_of(objective, found)
    assert found.vectors is not None
    vectors = torch.as_tensor(found.vectors).to(objective.device, objective.dtype)
    base, weights, classes = objective.check(), objective.weights.double().numpy(), objective.classes.numpy()

    def expected() -> float:
        # A second derivative of every sample, by forward mode, takes about as long as two gradients.
        cost, n = Cost.of(objective), objective.num_samples
        return len(vectors) * (2 * cost.forward(n) + 2 * cost.gradient(n))

    announce(f"owners of {len(vectors)} directions", expected)
    values = np.asarray(found.values, dtype=float)
    with np.errstate(divide="ignore"):
        epsilons = np.sqrt(2 * RISE / np.abs(values)) if epsilon is None else np.full(len(values), float(epsilon))
    # For every direction and class. The first axis holds numbers and their standard errors.
    shares, slopes = np.empty((2, 2, len(vectors), objective.num_classes))
    changes = np.full((2, len(vectors), objective.num_classes, 2), np.nan)
    sums = np.empty(len(vectors))
    with progress(len(vectors), "owners", "directions") as bar:
        for j, (vector, step) in enumerate(zip(vectors, epsilons, strict=True)):
            forms = objective.quadratic_forms(vector)
            sums[j] = np.average(forms, weights=weights)
            shares[:, j] = _shares(forms, weights, classes, objective.num_classes)
            slopes[:, j] = _means(objective.slopes(vector), weights, classes, objective.num_classes)
            # Without curvature, no distance changes the quadratic approximation.
            for number, side in enumerate((-1, 1) if np.isfinite(step) else ()):
                change = _answers(objective, side * float(step) * vector) - base.answers
                changes[:, j, :, number] = _means(change, weights, classes, objective.num_classes)
            bar.update()
    with np.errstate(divide="ignore", invalid="ignore"):
        off = np.abs(sums / values - 1)
    if not (off <= AGREE[objective.dtype]).all():
        worst = int(np.argmax(np.nan_to_num(off, nan=np.inf)))
        logger.warning(
            "eigenvalue %d is %.6g, and the sum over all images %.6g: its shares are rounding; take fewer directions, "
            "or convert the model to float64", worst + 1, values[worst], sums[worst],
        )  # fmt: skip
    provenance = {n: v for n, v in found.provenance.items() if n != "checks"}
    return OwnersResult(
        values=values,
        residuals=found.residuals,
        converged=found.converged,
        shares=shares[0],
        standard_errors=shares[1],
        slopes=slopes[0],
        slope_errors=slopes[1],
        accuracy_changes=changes[0],
        accuracy_change_errors=changes[1],
        epsilons=epsilons,
        which=found.which,
        class_names=found.class_names,
        class_samples=found.class_samples,
        class_weights=found.class_weights,
        groups=found.groups,
        sample_ids=found.sample_ids,
        sample_weights=found.sample_weights,
        provenance={**provenance, "probe": "owners", "epsilon": epsilon},
    )


def _shares(forms: np.ndarray, weights: np.ndarray, classes: np.ndarray, number: int) -> np.ndarray:
    r"""Shares :math:`s_c = \sum_{i \in c} a_i q_i / \sum_i a_i q_i` (C,) and their standard errors over images.

    The denominator is A times the eigenvalue, up to rounding. It contains the images of class c as well: by the delta
    method, the errors are those of :math:`\sum_i a_i (q_i 1[i \in c] - s_c q_i) / (A \lambda)`. The terms of different
    classes are independent, and every class has a fixed number of images.

    Returns:
        Shares and standard errors, (2, C).
    """
    terms = weights * forms / (weights * forms).sum()
    shares = np.bincount(classes, terms, number)
    variance = np.zeros(number)
    for d in range(number):
        of_class = terms[classes == d]
        n = len(of_class)
        if n:
            # The spread of a class of one image is unknown.
            spread = n * of_class.var(ddof=1) if n > 1 else np.nan
            factor = (np.arange(number) == d) - shares
            variance += np.where(factor == 0, 0.0, factor**2 * spread)
    present = np.bincount(classes, minlength=number) > 0
    return np.stack([shares, np.where(present, np.sqrt(variance), np.nan)])


def _means(values: np.ndarray, weights: np.ndarray, classes: np.ndarray, number: int) -> np.ndarray:
    """Weighted mean of every class and its standard error, (2, C); NaN for a class without samples."""
    found = np.full((2, number), np.nan)
    for c in np.unique(classes):
        chosen = classes == c
        found[:, c] = np.average(values[chosen], weights=weights[chosen]), mean_error(values[chosen], weights[chosen])
    return found


def _answers(objective: Objective, displacement: Tensor) -> np.ndarray:
    with objective.at(displacement):
        return objective.evaluate_samples().answers


def require_distance(epsilon: float | None) -> None:
    """Refuse a distance that is not positive.

    Raises:
        UserError: with the accepted values.
    """
    if epsilon is not None and not 0 < epsilon < np.inf:
        raise UserError(f"epsilon={epsilon}: give a positive distance, or None for one that changes the loss by {RISE}")


def _require_of(objective: Objective, found: EigenvalueResult) -> None:
    """Refuse eigenvalues that do not belong to this objective in its present state.

    Raises:
        UserError: states the difference, and how to get eigenvalues that fit.
    """
    if found.per_class:
        raise UserError("owners are of the whole loss, and these eigenvalues of every row: take per_class=False")
    if found.vectors is None:
        raise UserError("these eigenvalues were computed without vectors: take keep_vectors=True")
    now = objective.provenance()
    for name, remedy in (
        ("model_sha256", "the weights are others by now"),
        ("data_sha256", "these are other samples"),
        ("scope", "this is another scope"),
        ("coordinates", "these are other coordinates"),
        ("loss", "this is another loss"),
    ):
        if found.provenance.get(name, now[name]) != now[name]:
            raise UserError(
                f"{name} is not that of the eigenvalues: {remedy}; compute the eigenvalues of this objective"
            )
    if found.provenance.get("kind", "hessian") != "hessian":
        raise UserError("kind='ggn': owners are of the Hessian, take kind='hessian'")
