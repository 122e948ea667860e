r"""Post-training of the feature extractor (PoF, Sato et al., ICML 2022)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sharpness.errors import UserError
from sharpness.steps import (
    Batch,
    Context,
    Loss,
    Rule,
    Shards,
    add_to_grad,
    differentiate,
    frozen_running_statistics,
    mixed_loss,
    trainable,
    whole_features,
)

PARTS = 16  # subdivisions of the interval that contains the minimum of the loss
LONGEST = 128.0  # largest step if the loss never rises


def line_search(loss: Callable[[float], float]) -> float:
    """Find the step eta* > 0 along a line with the lowest ``loss``, to a sixteenth of the searched interval.

    The step doubles, starting at 1, until the loss exceeds ``loss(0)`` or the step is ``LONGEST``. The interval from 0
    to this step is divided into 16 equal parts, and eta* is the best of their ends.

    >>> line_search(lambda step: (step - 3) ** 2)  # 8 is the first step with a higher loss
    3.0
    """
    base, end = loss(0.0), 1.0
    while end < LONGEST and loss(end) <= base:
        end *= 2
    steps = [end * (i + 1) / PARTS for i in range(PARTS)]
    values = [loss(step) for step in steps]
    return steps[min(range(PARTS), key=lambda i: values[i] if math.isfinite(values[i]) else math.inf)]


@dataclass(frozen=True)
class PoF:
    r"""A last stage in which the backbone alone learns, under classifiers theta - kappa eta* g beside its own.

    .. code-block:: text

        for every batch B:
            B'   = another training batch
            g    = gradient of L(B') by the classifier theta
            eta* = line search of L(B') along theta - eta g
            kappa ~ U(0, gamma)
            backbone steps with the gradient of L(B) at the classifier theta - kappa eta* g
        theta stays what it was

    This follows the paper. The released code only steps the optimiser of the classifier and reads two arguments that it
    does not define. Its numbers are used: gamma 2, and the final learning rate of 200 epochs that start at 0.1 and have
    four drops by a factor of 0.2. B' is as large as B; the released code takes 256 images.

    Args:
        gamma: the largest kappa; with 2 the classifier moves up to twice the distance to the minimum.
        share: epochs of this stage as a fraction of those of the method's first stage: 50 of 200.
        lr: the constant learning rate.
    """

    paper: ClassVar[str] = (
        "Sato et al., PoF: Post-Training of Feature Extractor for Improving Generalization, ICML 2022"
    )
    deviations: ClassVar[tuple[str, ...]] = (
        "PoF is as its paper describes it, not as released: that steps the classifier's optimiser alone; the other "
        "batch is of the size of the first, in the released code 256 images",
        "PoF's classifier gradients leave BatchNorm's running statistics alone and the optimiser is that of the stage "
        "before; in the released code they move in that pass too, weight decay is 5e-4 and momentum Nesterov's; its "
        "README trains for 50 epochs, its default is 100",
    )

    sharded: ClassVar[bool] = True

    gamma: float = 2.0
    share: float = 0.25
    lr: float = 0.00016

    def __post_init__(self) -> None:
        for name, value in (("gamma", self.gamma), ("share", self.share), ("lr", self.lr)):
            if not 0 < value < math.inf:
                raise UserError(f"{name}={value}: PoF needs a positive {name}")

    def for_epoch(self, model: nn.Module, batches: Iterator[Batch | Shards], context: Context) -> Rule:
        return ShiftedClassifier(self.gamma, batches)


@dataclass(frozen=True)
class ShiftedClassifier:
    """The gradient of the backbone under a classifier shifted along its gradient on the next of ``batches``.

    The loss is the one of the stage's last epoch, because the classifier was trained up to that epoch. Terms that a
    method adds to its loss of logits and labels are left out, because they do not depend on the classifier.
    """

    gamma: float
    batches: Iterator[Batch | Shards]

    def backward(self, model: nn.Module, batch: Batch | Shards, loss: Loss, context: Context) -> Tensor:
        context = replace(context, epoch=context.epochs)
        head, other, search = model.head, next(self.batches), context.apart()
        classifier = {name: p.detach().requires_grad_(True) for name, p in head.named_parameters()}  # type: ignore

        def value(parameters: dict[str, Tensor], features: Tensor, of: Batch, at: Context, state: Tensor) -> Tensor:
            """Return the loss of features, with the same random numbers for every classifier."""
            at.generator.set_state(state)
            return mixed_loss(functional_call(head, parameters, (features,)), of, loss, at)  # type: ignore

        with torch.no_grad(), frozen_running_statistics(model):
            others = whole_features(model, other, context)
        found = partial(value, features=others.x, of=others, at=search, state=search.generator.get_state())
        gradient = torch.autograd.grad(found(classifier), list(classifier.values()))

        def shifted(step: float) -> dict[str, Tensor]:
            return {n: p.detach() - step * g for (n, p), g in zip(classifier.items(), gradient, strict=True)}

        with torch.no_grad():
            best = line_search(lambda step: float(found(shifted(step))))
        kappa = self.gamma * float(torch.rand((), generator=context.noise))

        def both(part: Batch, inside: Context) -> tuple[Tensor, Tensor]:
            state, features = inside.generator.get_state(), inside.features(model, part.x)
            there = value(shifted(kappa * best), features, part, inside, state)
            with torch.no_grad():
                return value(shifted(0.0), features, part, inside, state), there

        here, (step,) = differentiate(model, batch, context, both)
        add_to_grad(trainable(model), step)
        return here
