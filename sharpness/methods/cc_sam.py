r"""Class-conditional sharpness-aware minimisation (CC-SAM, Zhou et al., CVPR 2023): its recipe and second stage.

Stage 1 is in :mod:`sharpness.methods.cc_sam_head` (classifier, closed form) and
:mod:`sharpness.flattening.class_conditional` (last block or all parameters).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sharpness.data import LongTail
from sharpness.errors import UserError, choose
from sharpness.flattening import Batch, ClassConditionalStep, Context, Loss, PlainStep, Rule
from sharpness.flattening.class_conditional import MODES
from sharpness.methods.cc_sam_head import ClassConditionalHead
from sharpness.methods.cross_entropy import TENTHS, CrossEntropy
from sharpness.methods.recipe import Recipe, Stage
from sharpness.methods.schedules import Constant, MultiStep

TINY = 1e-12


@dataclass(frozen=True)
class AdversarialFeatures:
    r"""The loss of features z times 1 - t/T plus that of adversarial ones, z + lambda d/|d| with d = dL/dz, times t/T.

    .. math:: z' = z + \lambda \nabla_z \ell / \|\nabla_z \ell\|_2, \qquad
              L = (1 - t/T)\,\overline{\ell(z)} + (t/T)\,\overline{\ell(z')}

    for every sample by itself, with t = 1, ..., T the epoch of the stage; the head alone learns.

    With ``released_code`` the length is :math:`\lambda q_c` and the norm is taken over all samples of class c in
    the batch, the adversarial loss is weighted by :math:`q_c = \log(n_{max}/n_c + 0.01) / 2` once more, and
    t/T stops at ``up_limit``.
    """

    length: float = 1.0
    released_code: bool = False
    up_limit: float = 1.0
    capturable = True

    def backward(self, model: nn.Module, batch: Batch, loss: Loss, context: Context) -> Tensor:
        features = context.features(model, batch.x).detach().requires_grad_(True)
        head, labels = model.head, batch.first
        losses, weights = loss.terms(head(features), labels, context)  # type: ignore[operator]
        (gradient,) = torch.autograd.grad(losses.sum(), features, retain_graph=True)
        factor = torch.ones_like(losses)
        squares = gradient.square().sum(dim=1)
        if self.released_code:
            counts = context.class_counts.to(losses)
            factor = (counts.max() / counts + 0.01).log()[labels] / 2
            squares = torch.zeros_like(counts).index_add_(0, labels, squares)[labels]
        step = self.length * factor / squares.sqrt().clamp_min(TINY)
        adversarial, _ = loss.terms(head(features.detach() + step[:, None] * gradient), labels, context)  # type: ignore
        ramp = min(context.epoch / context.epochs, self.up_limit)
        objective = (weights * ((1 - ramp) * losses + ramp * factor * adversarial)).sum() / weights.sum()
        objective.backward(inputs=[p for p in head.parameters() if p.requires_grad])  # type: ignore[union-attr]
        return (weights * losses).sum().detach() / weights.sum()


#: The released configurations by number of classes: share of the perturbed loss, and the limit of the ramp.
RELEASED = {10: (0.3, 1.0), 100: (0.5, 0.3)}


#: Multiplies the paper's radius. With 1 the perturbation of a model that fits its data is longer than the head itself,
#: and training collapses: accuracy 20 % on digits-lt with ``epochs=40``, 13 % on CIFAR-10-LT with ``epochs=8``. The
#: authors' code multiplies it by 0.01 in its configuration for CIFAR-10-LT at imbalance 100 that perturbs the whole
#: loss, as the paper does.
RHO_SCALE = 0.01


def recipe(
    longtail: LongTail,
    scope: str = "classifier",
    rho_scale: float = RHO_SCALE,
    mode: str = "full",
    mixup: float = 1.0,
    adversarial_length: float = 1.0,
    stage2: bool = True,
    released_code: bool = False,
) -> Recipe:
    r"""CC-SAM, both stages or one, as in the paper, or as in the code its authors released.

    Stage 1: 200 epochs, batch 64, mixup, every class perturbed by its own
    :math:`\rho_c^* = (\|w\| / (2 \|g_c\|))^{1/2} k^{-1/4} (n_c - 1)^{-1/4}`.
    Stage 2: 30 epochs of the head alone, class-balanced sampling, adversarial features, learning rate 0.01.

    Args:
        scope: what is perturbed in stage 1: ``"classifier"``, ``"last_block"`` or ``"all"``.
        rho_scale: multiplies the radius: 1 is the formula as it stands, see :data:`RHO_SCALE` for the default. All
            parameters move further than the classifier alone: with scope="all" 0.003 leaves more of rare classes.
        mode: of stage 1: ``"full"``, the micro-benchmark's ``"direction"`` and ``"magnitude"``, or ``"plain"`` for
            mixup without a perturbation, which leaves stage 2 alone.
        adversarial_length: lambda of stage 2.
        stage2: whether there is one; False leaves stage 1 alone.
        released_code: the variant of the released code, which differs from the paper so:

            - the radius is multiplied by 1e-6 instead of ``rho_scale``, so that the perturbation all but vanishes;
            - weight and bias are perturbed each along its own gradient and with its own gradient norm, while the
              norm of w stays joint;
            - the perturbed loss is the cross-entropy of the image's first label, without its mixup partner, and
              class gradients are those of the mixed loss grouped by the first label;
            - the loss is (1 - f) mean + f perturbed, with f = 0.3 (10 classes) or 0.5 (100 classes);
            - incomplete batches are dropped; warm-up starts at a third; the drops come one epoch earlier;
            - in stage 2 BatchNorm normalises with the batch and its statistics keep moving;
            - the adversarial step and its loss are both weighted by class (:class:`AdversarialFeatures`).

            Not reproduced: the network (ten residual blocks called of sixteen stored), data-parallel training, and
            picking the best epoch of stage 1 on the test set: stage 2 starts from the last one.
    """
    choose("scope", scope, ("classifier", "last_block", "all"))
    choose("mode", mode, (*MODES, "plain"))
    if not isinstance(stage2, bool):
        raise UserError(f"stage2={stage2!r}: give true or false")
    share, up_limit = RELEASED[10 if longtail.num_classes < 50 else 100]
    if released_code and (scope != "classifier" or mode != "full"):
        raise UserError(f"released_code perturbs the classifier in full: drop scope={scope!r}, mode={mode!r}")
    if released_code and rho_scale != RHO_SCALE:
        raise UserError(f"released_code has its own factor of the radius, 1e-6: drop rho_scale={rho_scale}")
    if not math.isfinite(rho_scale) or rho_scale < 0:
        raise UserError(f"rho_scale={rho_scale}: give a finite number, at least 0")
    schedule: MultiStep = TENTHS
    notes: tuple[str, ...] = (f"the paper's radius is multiplied by {rho_scale:g}",)
    if released_code:
        rule: Rule = ClassConditionalHead(rho_scale=1e-6, released_share=share)
        schedule = MultiStep((159, 179), (1e-1, 1e-2), warmup_start=1 / 3)
        notes = ("released variant: stage 2 starts from the last epoch of stage 1, not from the best on the test set",)
    elif mode == "plain":
        rule, notes = PlainStep(), ("stage 1 is mixup without a perturbation",)
    elif scope == "classifier":
        rule = ClassConditionalHead(rho_scale=rho_scale, mode=mode)
    else:
        rule = ClassConditionalStep(scope=scope, rho_scale=rho_scale, mode=mode)
    first = Stage(
        "mixup" if mode == "plain" else "class-conditional SAM",
        200,
        CrossEntropy(),
        schedule,
        mixup=mixup,
        rule=rule,
        batch_size=64,
        drop_last=released_code,
    )
    second = Stage(
        "adversarial features",
        30,
        CrossEntropy(),
        Constant(),
        sampler="class_balanced",
        rule=AdversarialFeatures(adversarial_length, released_code, up_limit if released_code else 1.0),
        lr=0.01,
        batch_size=64,
        trainable="head",
        frozen_batchnorm=not released_code,
    )
    if min(longtail.class_counts) < 2 and mode != "plain":
        notes += ("a class of one image takes the radius of one of two, where the formula has none",)
    if mixup and mode != "plain" and not released_code:
        notes += (
            "a mixed image counts as two labelled ones, of weights lam and 1 - lam; in the released code the perturbed "
            "loss is that of its first label",
        )
    if stage2 and not released_code:
        notes += ("BatchNorm is frozen in stage 2; in the released code its statistics keep moving",)
    return Recipe(
        method="cc-sam",
        paper="Zhou et al., Class-Conditional Sharpness-Aware Minimization for Deep Long-Tailed Recognition, CVPR 2023",
        stages=(first, second) if stage2 else (first,),
        notes=notes,
    )
