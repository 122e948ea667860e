r"""Class-conditional sharpness-aware minimisation on any parameters (CC-SAM, CVPR 2023, stage 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sharpness.engine.undisturbed import uncompiled
from sharpness.errors import choose
from sharpness.flattening.class_radius import TINY, Perturbation
from sharpness.steps import (
    Batch,
    Context,
    Loss,
    RunningStatistics,
    SameNumbers,
    Shards,
    at_least_float32,
    frozen_running_statistics,
    joint_norm,
    perturbed,
    sum_grad,
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

    With mixup, a mixed image counts as two labelled rows with weights lam and 1 - lam. The layers below the perturbed
    part run forward and backward once per step; the perturbed part runs one additional time per class present.
    BatchNorm's running statistics move in the first pass only, and all passes draw the same random numbers, those of
    the loss and of dropout. For the head alone, use the closed form of
    ``ClassConditionalHead``, which does not loop over classes.

    Args:
        scope: ``"head"``, ``"last_block"`` (last residual block and head) or ``"all"``.
        rho_scale: factor of the radius; 1 in the paper.
        mode: ``"full"``; ``"direction"``: a step of length 1 along g_c; ``"magnitude"``: a step of CC-SAM's length in
            a random direction.
        cap: factor of the limit, see ``longest_step``; None for no limit.
    """

    sharded: ClassVar[bool] = True

    scope: str = "all"
    rho_scale: float = 1.0
    mode: str = "full"
    cap: float | None = None

    def __post_init__(self) -> None:
        choose("scope", self.scope, ("head", "last_block", "all"))
        Perturbation(self.rho_scale, self.mode, self.cap)  # validates the arguments

    def backward(self, model: nn.Module, batch: Batch | Shards, loss: Loss, context: Context) -> Tensor:
        below, upper, parameters = self._split(model)
        statistics, parts = RunningStatistics(model, len(batch.sizes)), batch.parts(context)
        hidden = []
        for part, inside in parts:
            with statistics.of_shard(inside.generator), context.autocast():
                hidden.append(below(part.x))
        # The graph is cut here: no class perturbs the layers below, so they run backward once, with the sum over
        # classes that accumulates in the leaves.
        leaves = [h.detach().requires_grad_(h.requires_grad) for h in hidden]
        numbers = SameNumbers(context.generator, *(inside.generator for _, inside in parts))

        def weighted_losses(part: Batch, inside: Context, leaf: Tensor) -> tuple[Tensor, Tensor]:
            index, labels, mixing = part.rows()
            with context.autocast():
                logits = upper(leaf)
            losses, weights = loss.terms(at_least_float32(logits)[index], labels, inside)
            return mixing * weights * losses, mixing * weights

        found = []
        for (part, inside), leaf in zip(parts, leaves, strict=True):
            # Compiled code may free what the second of several backward passes needs.
            with statistics.of_shard(inside.generator), uncompiled():
                found.append(weighted_losses(part, inside, leaf))
        statistics.set(batch.summed(statistics.moved))
        losses, weights = (torch.cat(rows) for rows in zip(*found, strict=True))
        labels = torch.cat([part.labels() for part, _ in parts])
        present = batch.labels().unique().tolist()
        of_classes = [weights[labels == c].sum() for c in present]
        value, total, *shares = batch.summed([losses.detach().sum(), weights.sum(), *of_classes])
        slopes: list[Tensor | None] = []
        for c, share in zip(present, shares, strict=True):
            of_class = losses[labels == c].sum() / share.clamp_min(TINY)
            slopes += torch.autograd.grad(of_class, parameters, retain_graph=True, allow_unused=True)
        # What the network does not use is not perturbed, and must count neither in k nor in |w|. All classes share the
        # graph, so the first one's gradients tell.
        parameters = [p for p, slope in zip(parameters, slopes, strict=False) if slope is not None]
        gradients = [slope for slope in slopes if slope is not None]
        # All gradients are computed before any perturbation is applied: changing weights in place would invalidate the
        # graph that the class gradients share. The graph is freed here to make room for the second passes.
        del losses, found
        perturbations = self._perturbations(batch.summed(gradients), parameters, present, context)
        with frozen_running_statistics(model):
            statistics = RunningStatistics(model, len(batch.sizes))
            for c, perturbation in zip(present, perturbations, strict=True):
                numbers.again()
                with perturbed(parameters, perturbation):
                    for (part, inside), leaf in zip(parts, leaves, strict=True):
                        if (rows := part.labels() == c).any():
                            with statistics.of_shard(inside.generator):
                                value_c = weighted_losses(part, inside, leaf)[0][rows].sum() / total
                            value_c.backward()
        for h, leaf in zip(hidden, leaves, strict=True):
            if leaf.grad is not None:
                h.backward(leaf.grad)
        sum_grad(model, batch)
        return value / total

    def _perturbations(
        self, gradients: list[Tensor], parameters: list[Tensor], present: list[int], context: Context
    ) -> list[list[Tensor]]:
        """Return the perturbation of each class present, given the gradients of one class after another."""
        weight_norm = joint_norm(p.detach() for p in parameters)
        num_parameters = sum(p.numel() for p in parameters)
        of_class = Perturbation(self.rho_scale, self.mode, self.cap)
        counts, perturbations = context.train_counts, []
        for k, c in enumerate(present):
            gradient = gradients[k * len(parameters) : (k + 1) * len(parameters)]
            norm = joint_norm(gradient)
            length = of_class.length(weight_norm, norm, num_parameters, counts[c], counts.min())
            if self.mode == "magnitude":
                gradient = [torch.randn(g.shape, generator=context.noise).to(g) for g in gradient]
                norm = joint_norm(gradient)
            perturbations.append([g * (length / norm.clamp_min(TINY)) for g in gradient])
        return perturbations

    def _split(self, model: nn.Module) -> tuple:
        """Split the network into the part below the perturbation, the perturbed part, and the latter's parameters."""
        if self.scope == "all":
            return lambda x: x, model, [p for p in model.parameters() if p.requires_grad]
        backbone, head = model.backbone, model.head
        if self.scope == "head":
            return backbone, lambda h: head(at_least_float32(h)), list(head.parameters())  # type: ignore
        parameters = [*backbone.last_block.parameters(), *head.parameters()]  # type: ignore
        return backbone.before_last_block, lambda h: head(backbone.from_last_block(h)), parameters  # type: ignore
