"""Epochs: sampled and augmented batches, one step per batch, and the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from sharpness.data import ImageSet, LongTailData, augment_batches, epoch_indices, mixup
from sharpness.engine import distributed
from sharpness.engine.class_sums import ClassSums, Scoring, class_sums
from sharpness.flattening.spectral_normalization import normalized_layers, power_iteration
from sharpness.methods import Stage
from sharpness.methods.recipe import EpochTransform, Transform
from sharpness.models import Classifier
from sharpness.steps import Batch, Context, EpochRule, Shards
from sharpness.training.state import epoch_generator
from sharpness.training.steps import Steps


def run_epoch(stage: Stage, network: Classifier, steps: Steps, data: LongTailData, context: Context) -> float:
    """Train one epoch, and return its mean training loss."""
    network.train()
    if stage.trainable.startswith("head") and stage.frozen_batchnorm:
        network.backbone.eval()
    rule, normalized = stage.rule, normalized_layers(network)
    if isinstance(rule, EpochRule):
        rule = rule.for_epoch(network, training_batches(stage, network, data, context.apart()), context)
    total, seen = torch.zeros((), dtype=torch.float64, device=data.train.images.device), 0
    for batch in training_batches(stage, network, data, context):
        power_iteration(normalized)
        total += steps(rule, batch, context).double() * len(batch)
        seen += len(batch)
    return float(total) / seen


def epoch_context(counts: Tensor, stage: Stage, epoch: int, seed: int, index: int, cast: Any) -> Context:
    """Return the context of losses and rules in an epoch of stage ``index``."""
    generator, noise = epoch_generator(seed, index, epoch), epoch_generator(seed, index, epoch, "/rule")
    return Context(counts, epoch, stage.epochs, generator, noise, cast)


def training_batches(
    stage: Stage, network: nn.Module, data: LongTailData, context: Context
) -> Iterator[Batch | Shards]:
    """Yield the batches of one epoch: sampled, augmented, normalised, mixed, and transformed with the network.

    A batch is divided into ``context.shards`` of nearly equal size, and each process yields its own. Each shard has its
    own generator for the epoch, which does not depend on the process; all shards of a batch share the mixup weight.
    BatchNorm needs two images per shard, so an incomplete batch with fewer is dropped.
    """
    train, generator, shards = data.train, context.generator, context.shards
    late = stage.late(context.epoch)
    sampler, transform = (late.sampler, late.transform) if late else (stage.sampler, None)
    indices = epoch_indices(sampler, train.labels.cpu(), data.num_classes, generator).to(train.labels.device)
    smallest = stage.batch_size if stage.drop_last else 2 * shards
    chunks = [chunk for chunk in indices.split(stage.batch_size) if len(chunk) >= smallest]
    if isinstance(transform, EpochTransform):  # once for all shards, which share the network
        transform = transform.for_epoch(network, train, context)
    if shards == 1:
        yield from made_batches(stage, network, data, context, chunks, transform)
        return
    # Every process draws the seeds of all shards and of the mixup weights.
    *seeds, mixing = torch.randint(2**62, (shards + 1,), generator=generator).tolist()
    generators = [Generator().manual_seed(seed) for seed in seeds]
    cut = [chunk.tensor_split(shards) for chunk in chunks]
    own = distributed.consecutive(shards)
    streams = [
        made_batches(
            stage, network, data, replace(context, generator=generators[s]), [pieces[s] for pieces in cut],
            transform, Generator().manual_seed(mixing),
        )
        for s in own
    ]  # fmt: skip
    mine = tuple(generators[s] for s in own)
    for chunk, pieces, *parts in zip(chunks, cut, *streams, strict=True):
        sizes = tuple(map(len, pieces))
        yield Shards(tuple(parts), mine, own.start, sizes, train.labels[chunk], distributed.total)


def made_batches(
    stage: Stage,
    network: nn.Module,
    data: LongTailData,
    context: Context,
    chunks: Sequence[Tensor],
    transform: Transform | None = None,
    mixing: Generator | None = None,
) -> Iterator[Batch]:
    """Yield the batches of the images at the given indices, with random numbers from the context.

    Args:
        chunks: indices of the images of each batch.
        transform: transform of the batches.
        mixing: generator of the mixup weights; that of the context by default.
    """
    train, generator = data.train, context.generator
    pixels = augment_batches(train.images, chunks, data.augmentation, data.padding, generator)
    for chunk, images in zip(chunks, pixels, strict=True):
        x, y = train.normalize(images), train.labels[chunk]
        batch = Batch(channels_last(x), y)
        if stage.mixup:
            mixed, partner, lam = mixup(x, stage.mixup, generator, mixing)
            batch = Batch(channels_last(mixed), y, y[partner], lam)
        if transform:
            with torch.enable_grad():
                batch = transform(network, batch, train, context)
        yield batch


def channels_last(x: Tensor) -> Tensor:
    """Return images in the memory layout with the fastest convolutions."""
    return x.contiguous(memory_format=torch.channels_last)


def evaluate(
    network: nn.Module,
    images: ImageSet,
    num_classes: int,
    cast: Any,
    batch_size: int | None = None,
    call: Callable[[Tensor], Tensor] | None = None,
) -> ClassSums:
    """Sum cross-entropy and correct predictions by class, in eval mode; the mode is restored afterwards.

    The batches are divided among the processes.

    Args:
        cast: context of forward passes.
        batch_size: by default, as many images as run fastest.
        call: function from normalised images to logits, by default the network itself.
    """
    batch_size = batch_size or (250 if images.images.device.type == "cpu" else 2500)
    outputs = call or network

    def forward(x: Tensor) -> Tensor:
        with cast():
            return outputs(channels_last(images.normalize(x))).float()

    # Consecutive processes take consecutive batches, so that each has nearly as many.
    starts = range(0, len(images), batch_size)[distributed.rank() :: distributed.world_size()]
    labels = torch.cat([images.labels[:0], *(images.labels[i : i + batch_size] for i in starts)])
    pairs = ((images.images[i : i + batch_size], images.labels[i : i + batch_size]) for i in starts)
    batches = ((x, y, torch.ones_like(y, dtype=torch.float32)) for x, y in pairs)
    training = network.training
    network.eval()
    try:
        loss = partial(F.cross_entropy, reduction="none")
        sums = class_sums(forward, batches, Scoring(loss, labels, num_classes, num_classes))
    finally:
        network.train(training)
    rows = np.stack([sums.loss, sums.weight, sums.correct, sums.count])
    return ClassSums(*distributed.total(torch.from_numpy(rows)).numpy())


def untested(num_classes: int) -> ClassSums:
    """Return NaN in place of the sums of an epoch without a test; ``accuracy_row`` turns them into empty columns."""
    return ClassSums(*np.full((4, num_classes), np.nan))


def accuracy_row(sums: ClassSums, data: LongTailData) -> dict[str, float]:
    """Return the test columns of the history; a group's accuracy is the mean over its classes with test images."""
    per_class = sums.class_accuracies
    row = {"test_loss": sums.mean, "accuracy": sums.accuracy}
    for group, classes in data.groups.items():
        known = per_class[list(classes)]
        known = known[~np.isnan(known)]
        row[f"accuracy_{group}"] = float(known.mean()) if len(known) else float("nan")
    return row | {f"accuracy_class_{c}": float(a) for c, a in enumerate(per_class)}
