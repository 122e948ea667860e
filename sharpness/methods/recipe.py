"""What a method is: a list of stages, each of them data that the training loop reads."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from sharpness.errors import UserError
from sharpness.flattening import SWA, EpochRule, Loss, PlainStep, Rule, SpectralNormalization
from sharpness.methods.schedules import Schedule


@dataclass(frozen=True)
class Stage:
    """One uninterrupted run of SGD. Numbers are those of the paper; a run may scale ``epochs``.

    Args:
        sampler: a name of :mod:`sharpness.data.samplers`, such as ``"class_balanced:4"``.
        mixup: alpha of the Beta distribution, 0 for none.
        trainable: ``"all"``, ``"head"`` with the backbone frozen, or ``"backbone"`` with the head frozen.
        frozen_batchnorm: in a stage that trains the head, whether the backbone's BatchNorm uses its running
            statistics (True) or the batch's, which moves them (False: "shifted BatchNorm").
        lr_factors: (prefix of parameter names, factor of the learning rate); the first match counts.
        add_weight_scaling: put learnable weight scaling over the head before this stage.
        scale: set the logit scale of a cosine head before this stage.
        drop_last: leave out an incomplete last batch.
        averaging: end in the average of the weights of the last epochs.
    """

    name: str
    epochs: int
    loss: Loss
    schedule: Schedule
    sampler: str = "instance"
    mixup: float = 0.0
    rule: Rule | EpochRule = field(default_factory=PlainStep)
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 2e-4
    batch_size: int = 128
    trainable: str = "all"
    frozen_batchnorm: bool = True
    lr_factors: tuple[tuple[str, float], ...] = ()
    add_weight_scaling: bool = False
    scale: float | None = None
    drop_last: bool = False
    averaging: SWA | None = None


@dataclass(frozen=True)
class Recipe:
    """A method: its paper, its head and its stages. ``notes`` name every deviation from what was published.

    ``normalization`` of the weights holds for all stages.
    """

    method: str
    paper: str
    stages: tuple[Stage, ...]
    head: str = "linear"
    scale: float | None = None
    notes: tuple[str, ...] = ()
    normalization: SpectralNormalization | None = None

    def with_epochs(self, epochs: int | None) -> Recipe:
        """The recipe with ``epochs`` in its first stage and the later ones shortened in proportion, at least 1."""
        if epochs is None:
            return self
        if epochs < 1:
            raise UserError(f"epochs={epochs}: give at least 1")
        first = self.stages[0].epochs
        stages = [
            replace(s, epochs=epochs if i == 0 else max(1, round(s.epochs * epochs / first)))
            for i, s in enumerate(self.stages)
        ]
        return replace(self, stages=tuple(stages))

    def with_batch_size(self, batch_size: int | None, num_samples: int) -> Recipe:
        """The recipe with another batch size.

        Without one the published size stands, halved until an epoch has ten steps: what is published for tens of
        thousands of images would otherwise take three steps an epoch on a few hundred. Never below 16.
        """
        if batch_size is not None and batch_size < 2:
            raise UserError(f"batch_size={batch_size}: BatchNorm needs at least 2")

        def chosen(published: int) -> int:
            if batch_size is not None:
                return batch_size
            while published > 16 and num_samples < 10 * published:
                published //= 2
            return published

        stages = tuple(replace(s, batch_size=chosen(s.batch_size)) for s in self.stages)
        if any(s.drop_last and s.batch_size > num_samples for s in stages):
            raise UserError(
                f"{num_samples} images fill no batch of {stages[0].batch_size}, and {self.method} drops incomplete "
                "ones: give a smaller batch_size"
            )
        return replace(self, stages=stages)
