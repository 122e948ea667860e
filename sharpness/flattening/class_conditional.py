r"""Class-conditional sharpness-aware minimisation on any parameters (CC-SAM, CVPR 2023, stage 1).

The perturbative PAC-Bayes bound with posterior and prior of standard deviation rho, to first order in the
perturbation and with w the k perturbed weights,

.. math:: J_c(\rho) = L_c(w) + \sqrt{k}\,\rho\,\|g_c\| + \frac{\|w\|}{2 \rho \sqrt{n_c - 1}},
          \qquad g_c = \nabla L_c(w),

is smallest at the radius below, which is larger the rarer the class.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sharpness.errors import choose
from sharpness.flattening.step import (
    Batch,
    Context,
    Loss,
    at_least_float32,
    frozen_running_statistics,
    joint_norm,
    perturbed,
)

MODES = ("full", "direction", "magnitude")
TINY = 1e-12


def optimal_radius(weight_norm: Tensor, gradient_norm: Tensor, num_parameters: int, class_counts: Tensor) -> Tensor:
    r"""The radius that minimises the bound.

    .. math:: \rho_c^* = \Big(\frac{\|w\|_2}{2\,\|g_c\|_2}\Big)^{1/2} k^{-1/4} (n_c - 1)^{-1/4}

    The perturbation of CC-SAM has length :math:`\sqrt{k}\,\rho_c^*`. A class of one image is treated as one
    of two (``max(n_c - 1, 1)``), and gradient norms below 1e-12 as 1e-12.

    Args:
        weight_norm: norm of the perturbed weights, a scalar.
        gradient_norm: (C,) norms of the class gradients.
        num_parameters: k.
        class_counts: (C,) training images of each class.

    >>> counts = torch.tensor([5000.0, 50.0])
    >>> rho = optimal_radius(torch.tensor(1.0), torch.ones(2), 16, counts)
    >>> round(float(rho[1] / rho[0]), 2)
    3.18
    """
    ratio = weight_norm / (2 * gradient_norm.clamp_min(TINY))
    return ratio.sqrt() * num_parameters**-0.25 * (class_counts.to(ratio) - 1).clamp_min(1) ** -0.25


@dataclass(frozen=True)
class ClassConditionalStep:
    r"""The gradient of sum_c (A_c / A) L_c(w + eps_c), |eps_c| = rho_scale sqrt(k) rho_c*, eps_c in the scope.

    .. code-block:: text

        for every class c in the batch:
            g_c   = gradient of L_c, the mean loss of the batch's samples of class c, at w
            eps_c = rho_scale * sqrt(k) * rho_c* * g_c / |g_c|
            G    += (weight of c in the batch) * gradient of L_c at w + eps_c      # all parameters
        w steps with G

    With mixup a mixed image is two labelled rows of weights lam and 1 - lam. What lies below the perturbed part
    runs once, forward and backward; the perturbed part runs once more per class present. BatchNorm's running
    statistics move in the first pass only. For the head alone use the closed form of
    :class:`sharpness.methods.cc_sam.ClassConditionalHead`, which has no loop over classes.

    Args:
        scope: ``"head"``, ``"last_block"`` (last residual block and head) or ``"all"``.
        rho_scale: multiplies the radius; 1 is the paper.
        mode: ``"full"``; ``"direction"``: a step of length 1 along g_c; ``"magnitude"``: the length of CC-SAM in
            a random direction.
    """

    scope: str = "all"
    rho_scale: float = 1.0
    mode: str = "full"

    def __post_init__(self) -> None:
        choose("scope", self.scope, ("head", "last_block", "all"))
        choose("mode", self.mode, MODES)

    def backward(self, model: nn.Module, batch: Batch, loss: Loss, context: Context) -> Tensor:
        below, upper, parameters = self._split(model)
        with context.autocast():
            hidden = below(batch.x)
        leaf = hidden.detach().requires_grad_(hidden.requires_grad)
        index, labels, mixing = batch.rows()

        def weighted_losses() -> tuple[Tensor, Tensor]:
            with context.autocast():
                logits = upper(leaf)
            losses, weights = loss.terms(at_least_float32(logits)[index], labels, context)
            return mixing * weights * losses, mixing * weights

        losses, weights = weighted_losses()
        total = weights.sum()
        present = labels.unique().tolist()
        weight_norm = joint_norm(p.detach() for p in parameters)
        num_parameters = sum(p.numel() for p in parameters)
        perturbations = []
        for c in present:
            share = weights[labels == c].sum().clamp_min(TINY)
            gradient = torch.autograd.grad(losses[labels == c].sum() / share, parameters, retain_graph=True)
            norm = joint_norm(gradient)
            radius = optimal_radius(weight_norm, norm, num_parameters, context.class_counts[c])
            perturbations.append(self._perturbation(gradient, norm, num_parameters**0.5 * radius, context))
        value = losses.detach().sum() / total
        del losses
        with frozen_running_statistics(model):
            for c, perturbation in zip(present, perturbations, strict=True):
                with perturbed(parameters, perturbation):
                    (weighted_losses()[0][labels == c].sum() / total).backward()
        if leaf.grad is not None:
            hidden.backward(leaf.grad)
        return value

    def _split(self, model: nn.Module) -> tuple:
        """The part below the perturbed one, the perturbed part, and its trainable parameters."""
        if self.scope == "all":
            return lambda x: x, model, [p for p in model.parameters() if p.requires_grad]
        backbone, head = model.backbone, model.head
        if self.scope == "head":
            return backbone, lambda h: head(at_least_float32(h)), list(head.parameters())  # type: ignore
        parameters = [*backbone.last_block.parameters(), *head.parameters()]  # type: ignore
        return backbone.before_last_block, lambda h: head(backbone.from_last_block(h)), parameters  # type: ignore

    def _perturbation(
        self, gradient: tuple[Tensor, ...], norm: Tensor, length: Tensor, context: Context
    ) -> list[Tensor]:
        if self.mode == "magnitude":
            noise = [torch.randn(g.shape, generator=context.noise).to(g) for g in gradient]
            gradient, norm = tuple(noise), joint_norm(noise)
        size = 1.0 if self.mode == "direction" else self.rho_scale * length
        return [g * (size / norm.clamp_min(TINY)) for g in gradient]
