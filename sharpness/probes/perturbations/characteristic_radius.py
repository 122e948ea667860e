r"""The radius that minimises the bound behind class-conditional SAM, and the loss at that radius."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from sharpness.data.by_class import by_class
from sharpness.engine.class_sums import ClassSums
from sharpness.errors import UserError
from sharpness.flattening import optimal_radius
from sharpness.flattening.class_radius import TINY
from sharpness.objective import Objective
from sharpness.probes.curvature.eigenvalues import eigenvalues
from sharpness.probes.perturbations.projected_ascent import Ball, climb
from sharpness.probes.shared.comparison import common_fields
from sharpness.probes.shared.probe import Resumed, comparable
from sharpness.probes.shared.work import Arrays, Work
from sharpness.progress import progress
from sharpness.renamed import renamed_arguments
from sharpness.results import CharacteristicRadiusResult

#: Radii of the curves, relative to rho*: from where the first order is accurate to where the model is destroyed.
FACTORS = tuple(float(f) for f in 10.0 ** (np.arange(-24, 4) / 6))
NAMES = (
    "loss",
    "gradient_norm",
    "rho",
    "bound",
    "step",
    "first_order",
    "second_order",
    "measured",
    "worst",
    "curvature",
    "lambda_max",
)


@renamed_arguments(class_counts="train_counts")
@comparable
def characteristic_radius(
    objective: Objective,
    train_counts: Sequence[int] | None = None,
    *,
    scale: float = 1.0,
    factors: Sequence[float] = FACTORS,
    steps: int = 10,
    lambda_max: bool = True,
    tol: float = 1e-3,
    seed: int = 0,
    **given: Unpack[Resumed],
) -> CharacteristicRadiusResult:
    r"""Compute the radius :math:`\rho_c^*` of CC-SAM's Theorem 1 (Zhou et al., CVPR 2023) and the loss at that radius.

    **Derivation.** Let w be the k weights in scope, :math:`L_c` the mean loss of the :math:`n_c` training images of
    class c and :math:`g_c` its gradient. A Gaussian prior around 0 and posterior around w, both of standard deviation
    :math:`\rho`, have the divergence :math:`\mathrm{KL} = \|w\|^2 / (2 \rho^2)`, and the PAC-Bayes bound (McAllester)
    adds
    :math:`\sqrt{(\mathrm{KL} + \log(n_c / \delta)) / (2 (n_c - 1))}` to the mean loss under the posterior, with
    probability :math:`1 - \delta`. The noise has length :math:`\sqrt{k}\,\rho`, nearly, so that its mean loss is taken
    to be at most the largest in the ball of that radius, as SAM does (Foret et al., ICLR 2021). To first order that
    is :math:`L_c(w) + \sqrt{k}\,\rho\,\|g_c\|`; without the logarithm the bound is

    .. math:: J_c(\rho) = L_c(w) + \sqrt{k}\,\rho\,\|g_c\| + \frac{\|w\|}{2 \rho \sqrt{n_c - 1}},

    whose derivative vanishes at

    .. math:: \rho_c^* = \Big(\frac{\|w\|}{2 \|g_c\|}\Big)^{1/2} k^{-1/4} (n_c - 1)^{-1/4}, \qquad
              J_c(\rho_c^*) = L_c(w) + 2 \sqrt{k}\,\rho_c^*\,\|g_c\|,

    where both terms are equal, and the perturbation is
    :math:`\epsilon_c = \sqrt{k}\,\rho_c^*\,g_c / \|g_c\|`: longer the rarer the class. This is the published radius;
    the complexity term as it is often quoted, without :math:`\rho`, would have no minimum.

    **What is compared.** The rise predicted to first order at :math:`\epsilon_c`, the prediction to second order (one
    Hessian-vector product), the measured rise, and the largest rise that projected ascent finds in the same ball. The
    :math:`\lambda_\max` of the class limits the validity of the first order: at length :math:`s`, curvature adds at
    most :math:`s^2 \lambda_\max / 2` to second order. The same quantities are given at other radii along the curve. For
    all samples together, :math:`n = \sum_c n_c`.

    The bound holds for losses in [0, 1] and for w fixed before the images are drawn, but cross-entropy is unbounded and
    w is trained on the images. The bound determines the radius, not how large the error can be.

    As in training, a class of one image is treated as a class of two, and gradient norms below 1e-12 are replaced by
    1e-12 in the formula, which shortens :math:`\epsilon_c` accordingly. The column ``clamped`` marks these classes.

    Cost in passes over the data: 2 gradients and one product, ``2 steps`` gradients and losses, ``2 len(factors)``
    losses, and two runs of :func:`~sharpness.eigenvalues`.

    Args:
        objective: objective on the training images, or ``{label: model, checkpoint or objective}`` to compare several.
            On test images, losses and gradients are those of the test images, but n remains the training count.
        train_counts: (C,) the n_c, the numbers of training images per class. By default those of the objective
            (``Objective(train_counts=)``, or any checkpoint that records them), otherwise its numbers of samples.
        scale: factor on the perturbation: 1 is the theorem; 0.01 is used by :mod:`sharpness.methods.cc_sam`, before its
            cap.
        factors: radii of the curve, as multiples of rho*.
        steps: maximum number of evaluations in the ascent; 0 for no ascent.
        lambda_max: whether to compute eigenvalues.
        tol: tolerance of the eigenvalues.
        seed: seed of the eigenvalues, and of the ascent if there is no gradient.
        given: see :class:`~sharpness.probes.shared.probe.Resumed`.

    Returns:
        A table of the numbers above, with the losses along the curve.
        For a mapping, a :class:`~sharpness.Comparison` of such results by label.

    Raises:
        UserError: counts, scale, factors or steps out of range, weights that are all 0, a gradient that is not finite.

    For the linear loss :math:`3 w_1 + 4 w_2`, the first order is exact:

    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> _ = model.weight.data.copy_(torch.tensor([[0.6, 0.8]]))
    >>> objective = Objective(model, (torch.tensor([[3.0, 4.0]]), torch.tensor([0])), loss=lambda u, y: u[:, 0])
    >>> result = characteristic_radius(objective, [5], lambda_max=False)
    >>> round(float(result.rho[0]) ** 2 * 2**0.5, 4), round(result.of("step") ** 2 / 2**0.5, 4)
    (0.05, 0.05)
    >>> round(result.of("measured") / result.of("first_order"), 4)
    1.0
    """
    if not (np.isfinite(scale) and scale > 0) or steps < 0:
        raise UserError(f"scale={scale}, steps={steps}: give a positive scale and 0 or more steps")
    grid = np.asarray(factors, dtype=float)
    if grid.ndim != 1 or not len(grid) or not (np.isfinite(grid) & (grid > 0)).all() or (np.diff(grid) <= 0).any():
        raise UserError(f"factors={list(factors)}: give positive numbers in ascending order, of rho*")
    counts, source = _counts(objective, train_counts)
    weight_norm = objective.weight_norm
    if weight_norm == 0:
        raise UserError("the weights in scope are all 0: the bound is smallest at radius 0, which is no perturbation")
    settings = {"scale": scale, "steps": steps, "seed": seed, "tol": tol, "counts": source}
    fields = common_fields(objective, probe="characteristic_radius", **settings)
    base = objective.check()
    # The key has the value of the loss, because another loss may have the same name.
    key = {**fields["provenance"], "n": counts.tolist(), "factors": grid.tolist(), "value": f"{base.mean:.4g}"}
    whole = objective.num_classes
    rows = [*(int(c) for c in np.flatnonzero(objective.class_samples)), whole]
    table = np.full((whole + 1, len(NAMES)), np.nan)
    losses = np.full((whole + 1, len(grid)), np.nan)

    def compute(row: int) -> Arrays:
        part = objective if row == whole else objective.restrict(row)
        n = int(counts.sum() if row == whole else counts[row])
        name = "all samples" if row == whole else f"class {objective.class_names[row]}"
        return _Row(objective, part, name, n, weight_norm).numbers(scale, grid, steps, seed)

    with progress(len(rows), "characteristic radius", "classes") as bar:
        for row, found in Work(given["resume"], key).rows(rows, compute):
            table[row, : len(found["numbers"])], losses[row] = found["numbers"], found["losses"]
            bar.update()
    if lambda_max:
        # One call for the classes, and one for all samples.
        for per_class, chosen in ((True, slice(None, whole)), (False, slice(whole, None))):
            ends = eigenvalues(
                objective, per_class=per_class, tol=tol, seed=seed, keep_vectors=False, resume=given["resume"]
            )
            table[chosen, NAMES.index("lambda_max")] = np.where(ends.converged, ends.values, np.nan)[..., 0]
    return CharacteristicRadiusResult(
        names=NAMES,
        overall=table[whole],
        values=table[:whole].T,
        standard_errors=np.full((len(NAMES), whole), np.nan),
        overall_standard_errors=np.full(len(NAMES), np.nan),
        train_counts=counts,
        factors=grid,
        class_losses=losses[:whole],
        losses=losses[whole],
        weight_norm=weight_norm,
        num_parameters=objective.num_parameters,
        scale=float(scale),
        **fields,
    )


def _counts(objective: Objective, given: Sequence[int] | None) -> tuple[np.ndarray, str]:
    """The n_c, (C,), and their source in words."""
    if given is not None:
        counts = np.asarray(by_class(given, objective.class_names, "train_counts"))
        if counts.shape != (objective.num_classes,) or (counts < 0).any() or (counts != counts.astype(int)).any():
            raise UserError(
                f"train_counts={list(given)}: give the training images of each of the {objective.num_classes} classes"
            )
        return counts.astype(np.int64), "given"
    if objective.train_counts is not None:
        return objective.train_counts.astype(np.int64), "training images"
    return objective.class_samples.astype(np.int64), "probed samples"


@dataclass(frozen=True)
class _Row:
    """A class, or all samples: a ``part`` of ``whole``, whose weights are moved.

    Moving those of ``whole`` gives all parts the same BatchNorm statistics.
    """

    whole: Objective
    part: Objective
    name: str
    n: int
    weight_norm: float

    def numbers(self, scale: float, factors: np.ndarray, steps: int, seed: int) -> dict[str, Any]:
        """Compute the numbers of ``NAMES`` except the last, and the losses (F,) of the curve."""
        k = self.whole.num_parameters
        # The centre is evaluated through `whole` as well: all samples determine the BatchNorm statistics.
        with self.whole.at(torch.zeros(k)):
            center, slope = self.part.evaluate_samples(), self.part.gradient()
            gradient = slope.double()
            norm = float(gradient.norm())
            if not np.isfinite(norm):
                raise UserError(f"the gradient of {self.name} is not finite, though its loss is: it gives no radius")
            direction = gradient / norm if norm > 0 else gradient
            product = self.part.hvp(direction.to(slope.dtype))
            curvature = float(direction @ product.double()) if norm > 0 else np.nan
            norms = torch.tensor([self.weight_norm, norm], dtype=torch.float64)
            radius = float(optimal_radius(norms[0], norms[1], k, torch.tensor(self.n)))
            unit = k**0.5 * radius * min(norm / TINY, 1.0)
            step = scale * unit
            losses = np.array([self._at(factor * unit * direction).mean for factor in factors])
            measured = self._at(step * direction).mean - center.mean
            best, _ = climb(self.whole, self.part, center, slope, Ball(step), steps, seed)
            worst = best.mean - center.mean if steps else np.nan
        bound = center.mean + unit * norm + self.weight_norm / (2 * radius * max(self.n - 1, 1) ** 0.5)
        first = step * norm
        second = first + step**2 * np.nan_to_num(curvature) / 2
        row = [center.mean, norm, radius, bound, step, first, second, measured, worst, curvature]
        return {"numbers": np.array(row), "losses": losses}

    def _at(self, displacement: Tensor) -> ClassSums:
        with self.whole.at(displacement):
            return self.part.evaluate()
