"""Model cards: stages of a training with formula, data and schedule, as text."""

from __future__ import annotations

import inspect
import re
from typing import Any

from sharpness.data import augmentation_label
from sharpness.methods.recipe import Stage

#: Descriptions of values of ``Stage.trainable`` and ``Stage.helper`` that do not describe themselves.
WORDS = {"all": "all parameters", "previous": "what the stages before have trained, frozen; a fresh network learns"}


def formula(part: Any) -> str:
    """Describe a loss or a rule by its hyper-parameters and its formula, the first sentence of its docstring.

    >>> from sharpness.methods.focal import Focal
    >>> formula(Focal(2.0))[:54]
    'Focal(gamma=2.0): (1 - p_y)^gamma (-log p_y) with p th'
    """
    text = inspect.cleandoc(type(part).__doc__ or "").split("\n\n")[0].replace("\n", " ")
    return f"{part!r}: {re.sub(r':[a-z]+:(?=`)|`', '', text).replace(chr(92), '')}"


def stage_card(stage: Stage, augmentation: str | None = None, shards: int = 1) -> dict[str, str]:
    """Describe a stage by topic (loss, step, data, ...), including everything that affects its result.

    Args:
        augmentation: augmentation of the run's training images, which is not part of a stage.
        shards: number of shards of every batch, which is not part of a stage either.

    >>> from sharpness.methods.cross_entropy import BASELINE
    >>> for about, words in stage_card(BASELINE).items():
    ...     print(f"{about:9} {words}")
    stage     cross-entropy
    loss      CrossEntropy(): -log softmax(u)_y, every sample alike.
    step      PlainStep(): The gradient of the loss where the weights stand: ordinary SGD.
    data      200 epochs, batches of 128, sampler instance
    optimiser SGD, lr 0.1, momentum 0.9, weight decay 0.0002
    schedule  MultiStep(milestones=(160, 180), factors=(0.01, 0.0001), warmup=5, warmup_start=0.0, of=200)
    trained   all parameters
    """
    card = {"stage": stage.name, "before": ", ".join(map(repr, stage.enter)), "loss": formula(stage.loss)}
    if stage.epochs:
        card |= {
            "step": formula(stage.rule),
            "data": _data(stage, shards),
            "augmented": f"by {augmentation_label(augmentation)}" if augmentation else "",
            "later": _later(stage),
            "optimiser": _optimiser(stage),
            "schedule": repr(stage.schedule),
            "trained": _trained(stage),
            "consults": WORDS.get(stage.helper or "", stage.helper or ""),
            "ends in": repr(stage.averaging) if stage.averaging else "",
        }
    return {about: words for about, words in card.items() if words}


def _data(stage: Stage, shards: int) -> str:
    incomplete = " (incomplete ones dropped)" if stage.drop_last else ""
    mixup = f", mixup with lam ~ Beta({stage.mixup:g}, {stage.mixup:g})" if stage.mixup else ""
    cut = (
        f" in {shards} shards, of which BatchNorm{' and mixup see' if stage.mixup else ' sees'} one"
        if shards > 1
        else ""
    )
    return f"{stage.epochs} epochs, batches of {stage.batch_size}{cut}{incomplete}, sampler {stage.sampler}{mixup}"


def _later(stage: Stage) -> str:
    if not (late := stage.deferred):
        return ""
    transform = f", {late.transform!r}" if late.transform else ""
    return f"after {late.after:.0%} of the epochs sampler {late.sampler}{transform}"


def _optimiser(stage: Stage) -> str:
    nesterov = "Nesterov " if stage.nesterov else ""
    factors = "".join(f", lr of {prefix}* times {factor:g}" for prefix, factor in stage.lr_factors)
    return f"SGD, lr {stage.lr:g}{factors}, {nesterov}momentum {stage.momentum:g}, weight decay {stage.weight_decay:g}"


def _trained(stage: Stage) -> str:
    part = WORDS.get(stage.trainable, stage.trainable)
    if not stage.trainable.startswith("head"):
        return part
    return part + (", BatchNorm frozen" if stage.frozen_batchnorm else ", BatchNorm follows the batches")
