r"""The first stage of CC-SAM on the classifier, in closed form: all classes at once instead of one pass per class.

Consider rows r (a mixed image is two rows) with feature z_r, label y_r, weight a_r and loss gradient
:math:`D_r = \partial \ell_r / \partial u`. With :math:`E_r = a_r D_r / \sum_{s: y_s = y_r} a_s` the class
gradient of a linear head is :math:`G_c = \sum_{r \in c} E_r z_r^\top`, of shape (C, d) for each of C classes.
This array is never formed. Training only needs its norm and its product with a feature, which are row sums of
(m, m) and (m, C) arrays, with S_rs = 1[y_r = y_s] and the kernel K_rs = z_r . z_s:

.. math:: G_{y_r} z_r = ((S \circ K) E)_r, \qquad \|G_c\|^2 = \sum_{r \in c} E_r \cdot ((S \circ K) E)_r.

With a bias, K is replaced by K + 1. For a cosine head see ``_cosine_rows``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.errors import UserError
from sharpness.flattening.class_radius import TINY, Perturbation
from sharpness.models import CosineHead, LinearHead
from sharpness.steps import Batch, Context, Loss, Shards, joint_norm, mixed_loss, sum_grad, whole_features


@dataclass(frozen=True)
class ClassConditionalHead:
    r"""The gradient of :math:`\sum_c (A_c / A) L_c(w + \epsilon_c)`, epsilon_c in the head only.

    .. math:: \epsilon_c = \min(\text{rho\_scale} \cdot \sqrt{k}\,\rho_c^*, \text{limit}_c)\, g_c / \|g_c\|, \qquad
              A_c = \sum_{r \in c} a_r, \; A = \sum_c A_c

    with :math:`\rho_c^*` and the limit of ``flattening/class_radius.py``. Features receive the gradient through the
    perturbed head, and the head receives its gradient at the perturbed weights.

    Args:
        rho_scale: factor of the radius; 1 in the paper.
        mode: ``"full"``; ``"direction"``: length 1 along g_c; ``"magnitude"``: the length above in a random direction.
        released_share: None for the paper; f in ``(1 - f) mean + f perturbed`` for the released code.
        per_tensor: for the released code, use the norm of the weight for the weight and that of the bias for the bias
            in place of the joint norm of w, as its first version does.
        cap: factor of the limit; None for no limit, as in the released code.
    """

    sharded: ClassVar[bool] = True

    rho_scale: float = 1.0
    mode: str = "full"
    released_share: float | None = None
    per_tensor: bool = False
    cap: float | None = None

    def __post_init__(self) -> None:
        Perturbation(self.rho_scale, self.mode, self.cap)  # validates the arguments
        if self.released_share is not None and self.cap is not None:
            raise UserError(f"cap={self.cap}: the released code bounds no step, drop cap or released_share")
        if self.per_tensor and self.released_share is None:
            raise UserError("per_tensor=True: norms of single tensors are of the released code, give released_share")

    @property
    def capturable(self) -> bool:
        """True if a CUDA graph can replay the step; random directions are drawn for the classes of each batch."""
        return self.mode != "magnitude"

    def backward(self, model: nn.Module, batch: Batch | Shards, loss: Loss, context: Context) -> Tensor:
        # Class gradients are those of the whole batch; rows of other processes are constants here.
        batch, shards = whole_features(model, batch, context), batch
        features = batch.x
        head: Any = model.head
        logits = shards.gated(head(features))
        if self.released_share is not None:
            plain = mixed_loss(logits, batch, loss, context)
            losses, weights = self._released(head, features, logits, batch, loss, context)
            share = self.released_share
            objective = (1 - share) * plain + share * (weights * shards.gated(losses)).sum() / weights.sum()
        else:
            index, labels, mixing = batch.rows()
            # The perturbation is treated as a constant, as in SAM: its gradient is computed on a separate leaf.
            leaf = logits.detach()[index].requires_grad_(True)
            plain_losses, weights = loss.terms(leaf, labels, context)
            (gradient,) = torch.autograd.grad(plain_losses.sum(), leaf)
            weights = mixing * weights
            plain = (weights * plain_losses).sum() / weights.sum()
            rows = features[index], logits[index], gradient, labels, weights
            perturbed = self.perturbed_logits(head, *rows, context)
            losses, _ = loss.terms(perturbed, labels, context)
            objective = (weights * shards.gated(losses)).sum() / weights.sum()
        objective.backward()
        sum_grad(model, shards)
        return plain.detach()

    def perturbed_logits(
        self, head: nn.Module, features: Tensor, logits: Tensor, gradient: Tensor, labels: Tensor, weights: Tensor,
        context: Context, separate: bool = False,
    ) -> Tensor:  # fmt: skip
        """Return the logits (m, C) of every row for the head perturbed for the class of that row.

        Args:
            features: (m, d), with their graph.
            logits: (m, C), with their graph.
            gradient: (m, C), the derivative of the loss of each row w.r.t. its logits, detached.
            labels: (m,) classes of the rows.
            weights: (m,) weights of the rows.
            context: context of the step.
            separate: perturb weight and bias each with its own gradient norm, as the released code does.
        """
        if not isinstance(head, LinearHead | CosineHead):
            raise UserError(f"CC-SAM has no closed form for a {type(head).__name__}: take scope='last_block' or 'all'")
        same = (labels[:, None] == labels[None, :]).to(gradient)
        terms = gradient * (weights / (same @ weights).clamp_min(TINY))[:, None]
        parameters = [p.detach() for p in weights_of(head)]
        size = sum(p.numel() for p in parameters)
        counts, rarest = context.train_counts[labels], context.train_counts.min()
        of_class, joint = Perturbation(self.rho_scale, self.mode, self.cap), joint_norm(parameters)

        def step(norm: Tensor, weight_norm: Tensor = joint) -> Tensor:
            norm = norm.clamp_min(TINY)
            return of_class.length(weight_norm, norm, size, counts, rarest) / norm

        if self.mode == "magnitude" and not isinstance(head, LinearHead):
            raise UserError(f"mode='magnitude' needs a linear head, this one is a {type(head).__name__}")
        if isinstance(head, LinearHead):
            # Only one side of the kernel has the graph of the features: the other side belongs to the class gradient,
            # which is treated as a constant.
            kernel = same * (features @ features.detach().T)
            product, bias = kernel @ terms, same @ terms
            # Rounding may make the squared norm of a vanishing gradient negative.
            squares = ((same @ (terms * product.detach()).sum(1)).clamp_min(0), bias.square().sum(1))
            if separate:
                norms = (joint_norm([p]) if self.per_tensor else joint for p in parameters)
                steps = [step(s.sqrt(), norm)[:, None] for s, norm in zip(squares, norms, strict=True)]
                return logits + steps[0] * product + steps[1] * bias
            norm = (squares[0] + squares[1]).sqrt()
            if self.mode == "magnitude":
                return _along_noise(head, features, logits, labels, step(norm) * norm.clamp_min(TINY), context)
            return logits + step(norm)[:, None] * (product + bias)
        product, along, squares_c = _cosine_rows(head, features, terms, same)
        factor = step(squares_c.sum(1).sqrt())[:, None]
        directions = F.normalize(features, dim=1)
        norm_squared = head.weight.square().sum(0) + 2 * factor * along + factor**2 * squares_c
        return head.scale * (directions @ head.weight + factor * product) / norm_squared.sqrt()

    def _released(
        self, head: nn.Module, features: Tensor, logits: Tensor, batch: Batch, loss: Loss, context: Context
    ) -> tuple[Tensor, Tensor]:
        """Return perturbed losses and weights of the released code: rows are images, grouped by first label."""
        leaf = logits.detach().requires_grad_(True)
        losses, weights = loss.terms(leaf, batch.first, context)
        if batch.second is not None:
            losses = batch.lam * losses + (1 - batch.lam) * loss.terms(leaf, batch.second, context)[0]
        (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        perturbed = self.perturbed_logits(
            head, features, logits, gradient, batch.first, torch.ones_like(weights), context, separate=True
        )
        return loss.terms(perturbed, batch.first, context)


def _along_noise(
    head: nn.Module, features: Tensor, logits: Tensor, labels: Tensor, lengths: Tensor, context: Context
) -> Tensor:
    """Return logits of a linear head perturbed along one Gaussian direction per class, by ``lengths`` (m,)."""
    out = torch.empty_like(logits)
    for c in labels.unique().tolist():
        noise = [torch.randn(p.shape, generator=context.noise).to(logits) for p in weights_of(head)]
        rows = labels == c
        shift = F.linear(features[rows], noise[0], noise[1]) / joint_norm(noise)
        out[rows] = logits[rows] + lengths[rows, None] * shift
    return out


def weights_of(head: nn.Module) -> list[Tensor]:
    """Return the weight and the bias with which a head computes its logits; they may be parametrised."""
    return [p for p in (getattr(head, name, None) for name in ("weight", "bias")) if p is not None]


def _cosine_rows(head: CosineHead, features: Tensor, terms: Tensor, same: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return products of the class gradient of a cosine head for every row, each of shape (m, C).

    With directions :math:`\hat z, \hat w_j`, cosines q_rj and :math:`b_j = s / \|w_j\|`, column j of the
    gradient of class c is :math:`G_{cj} = b_j \sum_{r \in c} E_{rj} (\hat z_r - q_{rj} \hat w_j)`.

    Returns:
        :math:`\hat z_r \cdot G_{y_r j}` with the graph of the features; :math:`w_j \cdot G_{y_r j}` with the graph of
        the weight (its value is 0, because logits do not depend on the length of w_j, but its gradient is not); and
        :math:`\|G_{y_r j}\|^2`, detached.
    """
    directions = F.normalize(features, dim=1)
    fixed = directions.detach()
    columns = F.normalize(head.weight.detach(), dim=0)
    cosines = fixed @ columns
    scale = head.scale / head.weight.detach().norm(dim=0)
    radial = same @ (terms * cosines)
    product = scale * ((same * (directions @ fixed.T)) @ terms - (directions @ columns) * radial)
    along = scale * (same @ (terms * (fixed @ head.weight)) - radial * (columns * head.weight).sum(0))
    spread = (same * (fixed @ fixed.T)) @ terms
    squares = scale**2 * (same @ (terms * spread) - radial**2)
    return product, along, squares.clamp_min(0)
