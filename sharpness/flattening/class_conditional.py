r"""Class-conditional sharpness-aware minimisation on any parameters (CC-SAM, CVPR 2023, stage 1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sharpness.errors import choose
from sharpness.flattening.class_radius import TINY, Perturbation
from sharpness.steps import (
    Batch,
    Context,
    Loss,
    at_least_float32,
    frozen_running_statistics,
    joint_norm,
    perturbed,
)


@dataclass(frozen=True)
class ClassConditionalStep:
    r"""The gradient of sum_c (A_c / A) L_c(w + eps_c), |eps_c| = min(rho_scale sqrt(k) rho_c*, limit_c), in the scope.

    .. code-block:: text

        for every class c in the batch:
            g_c   = gradient of L_c, the mean loss of the batch's samples of class c, at w
            eps_c = min(rho_scale * sqrt(k) * rho_c*, limit_c) * g_c / |g_c|
            G    += (weight of c in the batch) * gradient of L_c at w + eps_c      # all parameters
        w steps with G

    With mixup a mixed image is two labelled rows of weights lam and 1 - lam. What lies below the perturbed part
    runs once, forward and backward; the perturbed part runs once more per class present. BatchNorm's running
    statistics move in the first pass only. For the head alone use the closed form of ``ClassConditionalHead``, which
    has no loop over classes.

    Args:
        scope: ``"head"``, ``"last_block"`` (last residual block and head) or ``"all"``.
        rho_scale: multiplies the radius; 1 is the paper.
        mode: ``"full"``; ``"direction"``: a step of length 1 along g_c; ``"magnitude"``: the length of CC-SAM in
            a random direction.
        cap: of the limit, ``longest_step``; None for the bare formula.
    """

    scope: str = "all"
    rho_scale: float = 1.0
    mode: str = "full"
    cap: float | None = None

    def __post_init__(self) -> None:
        choose("scope", self.scope, ("head", "last_block", "all"))
        Perturbation(self.rho_scale, self.mode, self.cap)  # refuses what is wrong

    def backward(self, model: nn.Module, batch: Batch, loss: Loss, context: Context) -> Tensor:
        below, upper, parameters = self._split(model)
        with context.autocast():
            hidden = below(batch.x)
        # The graph is cut here, so that the layers below, which no class perturbs, run backward once with the sum over
        # classes that `leaf` collects.
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
        of_class = Perturbation(self.rho_scale, self.mode, self.cap)
        counts, perturbations = context.train_counts, []
        for c in present:
            share = weights[labels == c].sum().clamp_min(TINY)
            gradient = torch.autograd.grad(losses[labels == c].sum() / share, parameters, retain_graph=True)
            norm = joint_norm(gradient)
            length = of_class.length(weight_norm, norm, num_parameters, counts[c], counts.min())
            if self.mode == "magnitude":
                gradient = tuple(torch.randn(g.shape, generator=context.noise).to(g) for g in gradient)
                norm = joint_norm(gradient)
            perturbations.append([g * (length / norm.clamp_min(TINY)) for g in gradient])
        # No perturbation is applied before all are known: in-place changes of weights would invalidate the graph that
        # the class gradients share. It is freed here to make room for the second passes.
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
        """Split the network into the part below the perturbed one, the perturbed part, and its trainable parameters."""
        if self.scope == "all":
            return lambda x: x, model, [p for p in model.parameters() if p.requires_grad]
        backbone, head = model.backbone, model.head
        if self.scope == "head":
            return backbone, lambda h: head(at_least_float32(h)), list(head.parameters())  # type: ignore
        parameters = [*backbone.last_block.parameters(), *head.parameters()]  # type: ignore
        return backbone.before_last_block, lambda h: head(backbone.from_last_block(h)), parameters  # type: ignore
