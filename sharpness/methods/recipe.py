"""Recipes: a method as a list of stages, which are plain data for the training loop."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from torch import nn

from sharpness.data import ImageSet
from sharpness.errors import UserError, require_whole
from sharpness.flattening import SWA, SpectralNormalization
from sharpness.methods.changes import Change
from sharpness.methods.schedules import Schedule
from sharpness.steps import Batch, Context, EpochRule, Loss, PlainStep, Rule


class Transform(Protocol):
    """A change of a batch before the step; ``images`` provides the normalisation of the pixels."""

    def __call__(self, network: nn.Module, batch: Batch, images: ImageSet, context: Context) -> Batch: ...


@runtime_checkable
class EpochTransform(Transform, Protocol):
    """A transform that prepares itself before every epoch, at the end of which what it has prepared is dropped."""

    def for_epoch(self, network: nn.Module, images: ImageSet, context: Context) -> Transform: ...


@dataclass(frozen=True)
class Deferred:
    """Deferred settings of a stage, which take effect without a restart of momentum or learning rate.

    Args:
        after: fraction of the epochs after which the settings take effect.
        sampler: sampler of the epochs after it.
        transform: transform of the batches after it.
    """

    after: float
    sampler: str
    transform: Transform | None = None


@dataclass(frozen=True)
class Stage:
    """One uninterrupted run of SGD. Numbers are those of the paper; a run may scale ``epochs``.

    A stage of 0 epochs only changes the network, which is then tested.

    Args:
        sampler: a name in ``data/samplers.py``, such as ``"class_balanced:4"``.
        mixup: alpha of the Beta distribution, 0 for no mixup.
        nesterov: use Nesterov momentum.
        trainable: ``"all"``, or the part of the network that is trained while the rest is frozen: ``"head"``, a
            parameter of the head such as ``"head.factor"``, or ``"backbone"``.
        frozen_batchnorm: in a stage that only trains (a part of) the head, whether the backbone's BatchNorm uses its
            running statistics (True), or uses batch statistics and updates the running ones (False: "shifted
            BatchNorm").
        lr_factors: (prefix of parameter names, factor of the learning rate); the first match counts.
        enter: changes of the network before the first epoch, in this order.
        drop_last: drop an incomplete last batch.
        helper: a frozen network that is used in training, as ``network.auxiliary``: ``"previous"`` is the network of
            the previous stages, which is replaced by a new one; any other text is the path of a checkpoint.
        deferred: another sampler and a transform of batches, from some epoch on.
        averaging: end with the average of the weights of the last epochs.
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
    nesterov: bool = False
    weight_decay: float = 2e-4
    batch_size: int = 128
    trainable: str = "all"
    frozen_batchnorm: bool = True
    lr_factors: tuple[tuple[str, float], ...] = ()
    enter: tuple[Change, ...] = ()
    drop_last: bool = False
    averaging: SWA | None = None
    helper: str | None = None
    deferred: Deferred | None = None

    def late(self, epoch: int) -> Deferred | None:
        """Return the deferred settings if they are active in this epoch (counted from 1), else None."""
        return self.deferred if self.deferred and epoch > round(self.deferred.after * self.epochs, 9) else None


@dataclass(frozen=True)
class Recipe:
    """A method: its paper, its head and its stages.

    Args:
        notes: every deviation from the published method.
        cifar_notes: notes that only apply to the numbers for CIFAR. ``build_recipe`` adds them to ``notes``, except for
            large data sets with numbers of their own.
        normalization: normalisation of the weights in all stages.
        shards: number of shards of a batch in all stages.
        pretrained: whether the published training starts from ImageNet weights.
        frozen_trunk: whether only the last block of these weights is trained.
    """

    method: str
    paper: str
    stages: tuple[Stage, ...]
    head: str = "linear"
    scale: float | None = None
    notes: tuple[str, ...] = ()
    cifar_notes: tuple[str, ...] = ()
    normalization: SpectralNormalization | None = None
    shards: int = 1
    pretrained: bool = False
    frozen_trunk: bool = False

    def noted(self, *notes: str) -> Recipe:
        """Add notes."""
        return replace(self, notes=(*self.notes, *notes))

    def with_epochs(self, epochs: int | None) -> Recipe:
        """Scale the recipe to ``epochs`` in its first stage, and later stages in proportion, to at least 1 epoch.

        Stages of 0 epochs are unchanged.
        """
        if epochs is None:
            return self
        require_whole("epochs", epochs, 1)
        first = self.stages[0].epochs
        stages = [
            replace(s, epochs=epochs if i == 0 else max(min(1, s.epochs), round(s.epochs * epochs / first)))
            for i, s in enumerate(self.stages)
        ]
        shortened = replace(self, stages=tuple(stages))
        if epochs == first:
            return shortened
        return shortened.noted(f"{epochs} epochs instead of {first}, later stages and all schedules in proportion")

    def with_batch_size(self, batch_size: int | None, num_samples: int) -> Recipe:
        """Change the batch size.

        None keeps the published size, but halves it until an epoch has ten steps or the size is at most 16. Sizes
        published for tens of thousands of images would give an epoch of a few hundred images only three steps.
        """
        if batch_size is not None:
            require_whole("batch_size", batch_size, 2, ", which BatchNorm needs")

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
        changed = {(old.batch_size, new.batch_size) for old, new in zip(self.stages, stages, strict=True) if new.epochs}
        changes = (f"batches of {new} instead of {old}" for old, new in sorted(changed) if new != old)
        return replace(self, stages=stages).noted(*changes)

    def with_shards(self, shards: int, num_samples: int) -> Recipe:
        """Cut every batch into ``shards``.

        Raises:
            UserError: a batch, or the training set, has fewer than two images per shard; or a rule needs whole
                batches.
        """
        require_whole("shards", shards, 1)
        if shards == 1:
            return self
        trained = [s for s in self.stages if s.epochs]
        smallest = min((s.batch_size for s in trained), default=num_samples)
        if min(smallest, num_samples) < 2 * shards:
            what = f"batches of {smallest}" if smallest <= num_samples else f"{num_samples} training images"
            remedy = (
                f"batch_size={2 * shards} or more, or " if smallest <= num_samples and num_samples >= 2 * shards else ""
            )
            raise UserError(
                f"shards={shards}: {what} cannot be cut into so many of two images each, which BatchNorm needs: give "
                f"{remedy}shards={max(1, min(smallest, num_samples) // 2)} or fewer"
            )
        for stage in trained:
            if not getattr(stage.rule, "sharded", False):
                raise UserError(
                    f"shards={shards}: {type(stage.rule).__name__} takes whole batches: give shards=1, or write it "
                    "with Passes.start and Passes.descend and give its class sharded = True"
                )
        return replace(self, shards=shards)
