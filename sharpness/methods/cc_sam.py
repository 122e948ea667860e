r"""Class-conditional sharpness-aware minimisation (CC-SAM, Zhou et al., CVPR 2023): its recipe and second stage.

Stage 1 is in ``cc_sam_head.py`` (classifier, closed form) and ``flattening/class_conditional.py`` (last block or all
parameters).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sharpness.data import LongTail
from sharpness.errors import UserError, choose
from sharpness.flattening import ClassConditionalStep
from sharpness.flattening.class_radius import MODES
from sharpness.methods.cc_sam_head import ClassConditionalHead
from sharpness.methods.cross_entropy import LINEAR_HEAD, TENTHS, CrossEntropy
from sharpness.methods.recipe import Recipe, Stage
from sharpness.methods.schedules import Constant, MultiStep
from sharpness.steps import Batch, Context, Loss, PlainStep, Rule, Shards, whole_features

TINY = 1e-12
#: The paper's length of the adversarial step of stage 2.
LENGTH = 1.0


@dataclass(frozen=True)
class AdversarialFeatures:
    r"""The loss of features z times 1 - t/T plus that of adversarial ones, z + lambda d/|d| with d = dL/dz, times t/T.

    .. math:: z' = z + \lambda \nabla_z \ell / \|\nabla_z \ell\|_2, \qquad
              L = (1 - t/T)\,\overline{\ell(z)} + (t/T)\,\overline{\ell(z')}

    for each sample separately, with t = 1, ..., T the epoch of the stage. Only the head is trained.

    With ``released_code`` the length is :math:`\lambda q_c` with :math:`q_c = \log(n_{max}/n_c + 0.01) / 2`, the norm
    is taken over all samples of class c in the batch, the adversarial loss is also weighted by :math:`q_c`, and t/T
    stops at ``up_limit``.
    """

    length: float = LENGTH
    released_code: bool = False
    up_limit: float = 1.0
    capturable = True
    sharded = True

    def backward(self, model: nn.Module, batch: Batch | Shards, loss: Loss, context: Context) -> Tensor:
        # Only the head is trained: every process has the features of all processes, and computes the whole gradient.
        batch = whole_features(model, batch, context)
        features = batch.x.detach().requires_grad_(True)
        head, labels = model.head, batch.first
        losses, weights = loss.terms(head(features), labels, context)  # type: ignore[operator]
        (gradient,) = torch.autograd.grad(losses.sum(), features, retain_graph=True)
        factor = torch.ones_like(losses)
        squares = gradient.square().sum(dim=1)
        if self.released_code:
            counts = context.train_counts.to(losses)
            factor = (counts.max() / counts + 0.01).log()[labels] / 2
            squares = torch.zeros_like(counts).index_add_(0, labels, squares)[labels]
        step = self.length * factor / squares.sqrt().clamp_min(TINY)
        adversarial, _ = loss.terms(head(features.detach() + step[:, None] * gradient), labels, context)  # type: ignore
        ramp = min(context.epoch / context.epochs, self.up_limit)
        objective = (weights * ((1 - ramp) * losses + ramp * factor * adversarial)).sum() / weights.sum()
        objective.backward(inputs=[p for p in head.parameters() if p.requires_grad])  # type: ignore[union-attr]
        return (weights * losses).sum().detach() / weights.sum()


@dataclass(frozen=True)
class Released:
    """A configuration of the authors' repository for CIFAR.

    Args:
        source: origin of the configuration, for notes.
        mixup: alpha, 0 for no mixup.
        share: share of the perturbed loss, ``flat_ratio``.
        rho_scale: factor of the radius, ``noise_ratio``.
        up_limit: largest weight of the adversarial loss.
        per_tensor: whether the code of the same commit uses the norm of each tensor instead of the joint norm of w.
    """

    source: str
    mixup: float
    share: float
    rho_scale: float
    up_limit: float
    per_tensor: bool = False


#: The authors' last configuration by number of classes and imbalance.
RELEASED = {
    (10, 100): Released("commit 9d5ba5e of March 2023", 0.0, 1.0, 1e-2, 0.8, per_tensor=True),
    (10, 200): Released("the last commit", 1.0, 0.3, 1e-6, 1.0),
    (100, 100): Released("commit 9d5ba5e of March 2023", 1.0, 0.2, 1e-7, 0.3, per_tensor=True),
    (100, 200): Released("the last commit", 1.0, 0.5, 1e-6, 0.3),
}


def released(longtail: LongTail) -> tuple[Released, str]:
    """Return the released configuration for CIFAR-10-LT or CIFAR-100-LT at imbalance 100 or 200, and a note on it.

    Other imbalances and data sets use the nearest one, because the authors' tables have results for more imbalances
    than their repository has configurations.
    """
    classes = 10 if longtail.num_classes < 50 else 100
    imbalance = 100 if longtail.imbalance < 100 * math.sqrt(2) else 200
    found = RELEASED[classes, imbalance]
    note = f"released configuration of CIFAR-{classes}-LT at imbalance {imbalance} ({found.source})"
    if (longtail.dataset, longtail.imbalance) != (f"cifar{classes}-lt", imbalance):
        note += f": the nearest, there is none for {longtail.dataset} at imbalance {longtail.imbalance:g}"
    return found, note


#: Factor of the paper's radius. With 1 and no cap, the perturbation of a model that fits its data is longer than the
#: weight vector of the head, and training collapses: accuracy 20 % on digits-lt with ``epochs=40``. With mixup, 0.01
#: has no measurable effect, and longer steps reduce accuracy: see ``docs/findings.md``.
RHO_SCALE = 0.01
#: Bound of the perturbation of the rarest class, as a share of the norm of the perturbed weights. With mixup it is
#: never reached; without mixup it prevents the collapse with ``rho_scale=0.01``, without loss of accuracy on digits-lt.
CAP = 0.05


def recipe(
    longtail: LongTail,
    scope: str = "classifier",
    rho_scale: float = RHO_SCALE,
    mode: str = "full",
    mixup: float | None = None,
    adversarial_length: float = LENGTH,
    stage2: bool = True,
    released_code: bool = False,
    cap: float | str | None = "auto",
) -> Recipe:
    r"""CC-SAM with one or both stages, as in the paper or as in the code that its authors released.

    Stage 1: 200 epochs, batch size 64, mixup; each class is perturbed by its own
    :math:`\rho_c^* = (\|w\| / (2 \|g_c\|))^{1/2} k^{-1/4} (n_c - 1)^{-1/4}`.
    Stage 2: 30 epochs of the head, class-balanced sampling, adversarial features, learning rate 0.01.

    Args:
        scope: part of the network that stage 1 perturbs: ``"classifier"``, ``"last_block"`` or ``"all"``.
        rho_scale: factor of the radius, ``RHO_SCALE`` by default; 1 is the formula as published. With scope="all" the
            perturbation is longer than that of the classifier alone. Modes without a radius refuse it.
        cap: bounds the perturbation of the rarest class by this share of the norm of the perturbed weights, and those
            of other classes by less (``longest_step``); ``"none"`` or None for no bound. ``"auto"`` is ``CAP``, except
            with mode="direction", where it is no bound.
        mode: mode of stage 1: ``"full"``, the micro-benchmark's ``"direction"`` and ``"magnitude"``, or ``"plain"`` for
            mixup without a perturbation, which shows the effect of stage 2 alone.
        mixup: alpha, 1 by default; 0 for no mixup.
        adversarial_length: lambda of stage 2.
        stage2: whether stage 1 is followed by stage 2.
        released_code: use the variant of the released code, which differs from the paper as follows:

            - mixup, the factor of the radius, the share f of the perturbed loss and the limit of the ramp of stage 2
              are those of the authors' configuration for the data set and its imbalance (``RELEASED``), or of
              the nearest one;
            - weight and bias are each perturbed along their own gradient with their own gradient norm; the norm of w
              is joint (imbalance 200) or that of each tensor (imbalance 100, as in the code of that configuration);
            - the perturbed loss is the cross-entropy of the image's first label, without its mixup partner, and
              class gradients are those of the mixed loss, grouped by the first label;
            - the loss is (1 - f) mean + f perturbed;
            - incomplete batches are dropped; warm-up starts at a third; the learning rate drops one epoch earlier;
            - in stage 2 BatchNorm uses batch statistics and its running statistics are updated;
            - the adversarial step and its loss are both weighted by class (``AdversarialFeatures``).

            Not reproduced: the network, which calls 14 residual blocks (5 + 5 + 4) of the 16 that it stores,
            data-parallel training, and the choice of each stage's best epoch on the test set; here every stage ends
            with its last epoch.

    Raises:
        UserError: an option out of range, or one that has no effect in combination with another.
    """
    choose("scope", scope, ("classifier", "last_block", "all"))
    choose("mode", mode, (*MODES, "plain"))
    if not isinstance(stage2, bool):
        raise UserError(f"stage2={stage2!r}: give true or false")
    # Checked before "auto" is replaced by a number, so that only an explicit cap is refused.
    if cap not in ("auto", "none", None) and (released_code or mode == "plain"):
        raise UserError(f"{'released_code' if released_code else 'mode=plain'} bounds no step: drop cap={cap}")
    if cap in ("auto", "none"):
        cap = CAP if cap == "auto" and mode != "direction" else None
    if released_code and (scope != "classifier" or mode != "full"):
        raise UserError(f"released_code perturbs the classifier in full: drop scope={scope!r}, mode={mode!r}")
    if released_code and rho_scale != RHO_SCALE:
        raise UserError(f"released_code has its own factor of the radius: drop rho_scale={rho_scale}")
    # A card must not name options that change nothing.
    if mode == "plain" and scope != "classifier":
        raise UserError(f"mode=plain perturbs no part of the network: drop scope={scope}")
    if mode in ("plain", "direction") and rho_scale != RHO_SCALE:
        takes = "perturbs nothing" if mode == "plain" else "has steps of length 1"
        raise UserError(f"mode={mode} {takes}, whatever the radius: drop rho_scale={rho_scale}")
    if not stage2 and adversarial_length != LENGTH:
        raise UserError(f"stage2=false takes no adversarial steps: drop adversarial_length={adversarial_length}")
    for name, factor in (("rho_scale", rho_scale), ("adversarial_length", adversarial_length)):
        if not math.isfinite(factor) or factor < 0:
            raise UserError(f"{name}={factor}: give a finite number, at least 0")
    if isinstance(cap, str):
        raise UserError(f"cap={cap!r}: give a positive share of the norm of the weights, such as 0.05, none or auto")
    authors, source = released(longtail)
    if mixup is None:
        mixup = authors.mixup if released_code else 1.0
    schedule: MultiStep = TENTHS
    notes: tuple[str, ...] = (_length_note(mode, rho_scale, cap),)
    if released_code:
        rule: Rule = ClassConditionalHead(
            rho_scale=authors.rho_scale, released_share=authors.share, per_tensor=authors.per_tensor
        )
        schedule = MultiStep((159, 179), (1e-1, 1e-2), warmup_start=1 / 3)
        notes = (
            source,
            "the network is the data set's usual one; the released one calls 5 + 5 + 4 residual blocks of 16 it stores",
        )
    elif mode == "plain":
        rule = PlainStep()
    elif scope == "classifier":
        rule = ClassConditionalHead(rho_scale=rho_scale, mode=mode, cap=cap)
    else:
        rule = ClassConditionalStep(scope=scope, rho_scale=rho_scale, mode=mode, cap=cap)
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
        rule=AdversarialFeatures(adversarial_length, released_code, authors.up_limit if released_code else 1.0),
        lr=0.01,
        batch_size=64,
        trainable="head",
        frozen_batchnorm=not released_code,
    )
    if min(longtail.train_counts) < 2 and mode != "plain":
        notes += ("a class of one image takes the radius of one of two, where the formula has none",)
    if mixup and mode != "plain" and not released_code:
        notes += (
            "a mixed image counts as two labelled ones, of weights lam and 1 - lam; in the released code the perturbed "
            "loss is that of its first label",
        )
    if stage2 and not released_code:
        notes += ("BatchNorm is frozen in stage 2; in the released code its statistics keep moving",)
    notes += (
        "every stage ends in its last epoch, in the released code in the best on the test set",
        f"{LINEAR_HEAD}; here the first radii of CC-SAM are 1.6 times longer",
    )
    return Recipe(
        method="cc-sam",
        paper="Zhou et al., Class-Conditional Sharpness-Aware Minimization for Deep Long-Tailed Recognition, CVPR 2023",
        stages=(first, second) if stage2 else (first,),
        notes=notes,
        cifar_notes=(
            "published for CIFAR-10-LT at imbalance 100: 83.92 with AutoAugment and Cutout (augmentation "
            "autoaugment-cutout) and mixup=0, 82.42 without them",
        ),
    )


def _length_note(mode: str, rho_scale: float, cap: float | None) -> str:
    """Return a note that compares the perturbation length of stage 1 with the formula of the paper."""
    if mode == "plain":
        return "stage 1 is without a perturbation"
    length = "the perturbation has length 1" if mode == "direction" else f"the paper's radius times {rho_scale:g}"
    if cap is None:
        return f"{length}, unbounded"
    others = "each class" if mode == "direction" else "the rarest class, and less by the paper's ratio for the others"
    return f"{length}, at most {cap:g} of the norm of the perturbed weights for {others}"
