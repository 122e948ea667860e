r"""Perturbation radius of every class in class-conditional sharpness-aware minimisation (CC-SAM, CVPR 2023).

The perturbative PAC-Bayes bound with posterior and prior of standard deviation rho, to first order in the
perturbation and with w the k perturbed weights,

.. math:: J_c(\rho) = L_c(w) + \sqrt{k}\,\rho\,\|g_c\| + \frac{\|w\|}{2 \rho \sqrt{n_c - 1}},
          \qquad g_c = \nabla L_c(w),

is smallest at the radius below, which is larger for rarer classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sharpness.errors import UserError, choose

MODES = ("full", "direction", "magnitude")
TINY = 1e-12


def optimal_radius(weight_norm: Tensor, gradient_norm: Tensor, num_parameters: int, train_counts: Tensor) -> Tensor:
    r"""Return the radius that minimises the bound.

    .. math:: \rho_c^* = \Big(\frac{\|w\|_2}{2\,\|g_c\|_2}\Big)^{1/2} k^{-1/4} (n_c - 1)^{-1/4}

    The perturbation of CC-SAM has length :math:`\sqrt{k}\,\rho_c^*`. A class with one image is treated like a class
    with two (``max(n_c - 1, 1)``), and gradient norms below 1e-12 are replaced by 1e-12.

    Args:
        weight_norm: norm of the perturbed weights, a scalar.
        gradient_norm: (C,) norms of the class gradients.
        num_parameters: k.
        train_counts: (C,) training images of each class.

    >>> counts = torch.tensor([5000.0, 50.0])
    >>> rho = optimal_radius(torch.tensor(1.0), torch.ones(2), 16, counts)
    >>> round(float(rho[1] / rho[0]), 2)
    3.18
    """
    ratio = weight_norm / (2 * gradient_norm.clamp_min(TINY))
    return ratio.sqrt() * num_parameters**-0.25 * (train_counts.to(ratio) - 1).clamp_min(1) ** -0.25


def longest_step(cap: float, weight_norm: Tensor, train_counts: Tensor, rarest: Tensor) -> Tensor:
    r"""Return the largest perturbation length of each class: ``cap`` times the norm of w for the rarest, else less.

    .. math:: \text{cap}\,\|w\| \Big(\frac{n_{min} - 1}{n_c - 1}\Big)^{1/4}

    The radius grows without bound as a class's gradient vanishes, because of its factor :math:`\|g_c\|^{-1/2}`, but the
    first-order approximation it is derived from is only valid near w. The limit bounds this factor by the same number
    for all classes, as if no gradient were shorter than some length, and keeps :math:`(n_c - 1)^{-1/4}`. Two steps at
    their limits therefore have the published ratio; with ``cap * |w|`` for every class they would be equal. Scaling all
    classes of a batch by one factor would keep every ratio, but then a single class that is classified with confidence
    would remove the perturbation of all others.

    Args:
        weight_norm: norm of the perturbed weights, a scalar.
        train_counts: (C,) training images of each class; 1 is treated like 2.
        rarest: number of images of the rarest class of the training set, whether or not it is in the batch, a scalar.

    >>> counts = torch.tensor([5000, 50])
    >>> limit = longest_step(0.05, torch.tensor(2.0), counts, counts.min())
    >>> round(float(limit[1]), 3), round(float(limit[1] / limit[0]), 2)
    (0.1, 3.18)
    """
    ratio = (rarest.to(weight_norm) - 1).clamp_min(1) / (train_counts.to(weight_norm) - 1).clamp_min(1)
    return cap * weight_norm * ratio**0.25


@dataclass(frozen=True)
class Perturbation:
    r"""The length of a class's perturbation, :math:`\min(\text{rho\_scale} \sqrt{k}\,\rho_c^*, \text{limit}_c)`.

    Args:
        rho_scale: factor of the radius; 1 in the paper.
        mode: ``"full"`` and ``"magnitude"`` have the length above; ``"direction"`` has length 1, or ``cap * |w|`` if
            that is less, for all classes.
        cap: factor of the limit, see ``longest_step``; None for no limit.

    >>> count, w = torch.tensor(17), torch.tensor(2.0)
    >>> [round(float(Perturbation(cap=cap).length(w, torch.tensor(1e-8), 16, count, count)), 2) for cap in (None, 0.05)]
    [10000.0, 0.1]
    """

    rho_scale: float = 1.0
    mode: str = "full"
    cap: float | None = None

    def __post_init__(self) -> None:
        choose("mode", self.mode, MODES)
        number = isinstance(self.cap, int | float) and not isinstance(self.cap, bool)
        if self.cap is not None and not (number and 0 < self.cap < math.inf):
            raise UserError(
                f"cap={self.cap!r}: give a positive share of the norm of the weights, such as 0.05, or none"
            )

    def length(
        self, weight_norm: Tensor, gradient_norm: Tensor, num_parameters: int, train_counts: Tensor, rarest: Tensor
    ) -> Tensor:
        """Return lengths of the shape of ``gradient_norm`` and ``train_counts``, without a transfer to the host."""
        if self.mode == "direction":
            one = torch.ones_like(gradient_norm)
            return one if self.cap is None else torch.minimum(one, self.cap * weight_norm)
        radius = optimal_radius(weight_norm, gradient_norm, num_parameters, train_counts)
        length = self.rho_scale * num_parameters**0.5 * radius
        if self.cap is None:
            return length
        return torch.minimum(length, longest_step(self.cap, weight_norm, train_counts, rarest))
