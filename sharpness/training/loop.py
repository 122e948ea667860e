"""Training: stages of SGD over images that live on the device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.checkpoints import Manifest, save_checkpoint
from sharpness.data import ImageSet, LongTailData, augment_batches, epoch_indices, mixup
from sharpness.engine import ClassSums, class_sums, resolve_device, seeded, without_autocast
from sharpness.errors import UserError
from sharpness.flattening.spectral_normalization import normalized_layers, ordinary_state, power_iteration
from sharpness.methods import Recipe, Stage, build_recipe, flattened
from sharpness.models import Classifier, build_model
from sharpness.progress import progress
from sharpness.steps import Batch, Context, EpochRule
from sharpness.training.averaging import end_in_average, start_average
from sharpness.training.believed import check_finished, check_optimizer, check_progress, check_tensors, damaged
from sharpness.training.manifest import at_present, manifest_of
from sharpness.training.parts import Helper, add_parts, read_helper
from sharpness.training.precision import autocast, resolve_precision
from sharpness.training.state import RunFolder, RunState, epoch_generator, run_name
from sharpness.training.steps import Replays, Steps, side_stream, stage_steps

#: On a GPU, where an epoch takes less time than saving it ten times, what an interruption may cost.
SECONDS_LOST = 2.0


def train(
    method: str,
    data: LongTailData,
    out: str | Path | None = None,
    *,
    flatten: tuple[str, ...] = (),
    epochs: int | None = None,
    seed: int = 0,
    model: str | None = None,
    batch_size: int | None = None,
    precision: str = "auto",
    device: str | torch.device | None = None,
    augmentation: str | None = None,
    resume: bool = False,
    snapshots: int | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Train a model with a method's published recipe; the result is ``OUT/last.pt``, the weights after the last epoch.

    The test set is measured after every epoch and nothing is chosen by it.

    Args:
        method: a name in :data:`sharpness.methods.METHODS`.
        data: what :func:`sharpness.load_data` returns.
        out: the run's folder; unless given ``runs/DATA-METHOD-seedS``, with operations and options in the name where
            there are any. A finished identical run is reused.
        flatten: flattening operations, such as ``("sam:0.1", "swa")``: see :mod:`sharpness.methods.flattened`.
        epochs: of the first stage; later stages and schedules are scaled in proportion. The published ones
            unless given.
        seed: of initialisation, sampling, augmentation and noise.
        model: an architecture; the data set's usual one unless given.
        batch_size: the published one unless given, halved until an epoch has ten steps.
        precision: ``"auto"``, ``"float32"`` or ``"bfloat16"`` (autocast).
        augmentation: a name of :data:`sharpness.data.AUGMENTATIONS`, such as ``"autoaugment-cutout"``; the data set's
            usual one unless given. Another one is part of the run's name and label.
        resume: go on with an unfinished run in ``out``; it ends in the same weights as an uninterrupted one.
        snapshots: keep a checkpoint of the start and of every so many epochs (of all stages together), as
            ``OUT/snapshots/epoch-0001.pt``; a run that is resumed goes on keeping them.
        options: of the method, such as ``scope="all"`` for ``"cc-sam"``.

    Returns:
        The history, one row per epoch: stage, epoch, lr, training loss, test loss and accuracies (fractions):
        overall, ``accuracy_many`` / ``_medium`` / ``_few`` and ``accuracy_class_0``, ... . A stage without epochs
        has one row, of epoch 0 and without a training loss. With SWA the test columns of the averaging stage's last
        epoch are those of the average, and of the epochs before those of the weights that are trained.

    Raises:
        UserError: unknown names, or a folder that holds something else, or the same run without snapshots.
        FloatingPointError: the training loss is not finite.
    """
    if snapshots is not None and not (isinstance(snapshots, int) and snapshots >= 1):
        raise UserError(f"snapshots={snapshots!r}: give the epochs from one to the next, at least 1")
    device = resolve_device(device)
    data = data.augmented(augmentation)
    recipe = build_recipe(method, data.longtail, **options)
    recipe = flattened(recipe, flatten).with_epochs(epochs).with_batch_size(batch_size, len(data.train))
    precision = resolve_precision(precision, device, data.train.images.shape[-1])
    architecture = model or data.default_model
    network = initial_model(recipe, architecture, data, seed)
    helper = read_helper(recipe, data)
    training = {
        "epochs": [s.epochs for s in recipe.stages],
        "batch_size": [s.batch_size for s in recipe.stages],
        "seed": seed,
        "precision": precision,
        "flatten": list(flatten),
        **({"helper_sha256": helper.sha256} if helper else {}),
        **({"augmentation": data.other_augmentation} if data.other_augmentation else {}),
    }
    identity = {
        "method": method,
        "options": options,
        "data": data.longtail.to_dict(),
        "data_sha256": data.train.sha256(),
        "model": architecture,
        **training,
        **({"snapshots": snapshots} if snapshots else {}),
    }
    name = f"{data.longtail.dataset}-{run_name(method, flatten, options, seed, data.other_augmentation)}"
    folder = RunFolder(Path(out) if out else Path("runs") / name)
    with folder.held(), without_autocast():
        state = folder.claim(identity, resume)
        if state is None:
            history = check_finished(folder.path, folder.result, identity, training)
            folder.finish()
            return history
        if vars(state) != vars(RunState()):
            check_progress(state, recipe, folder.path / "state.pt")
        moved = replace(data, train=data.train.to(device), test=data.test.to(device))
        network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        description = manifest_of(recipe, data, {**identity, "training": training}, device.type)
        carry_out(recipe, network, moved, state, folder, seed, precision, helper, description)
        return folder.history()


def carry_out(
    recipe: Recipe,
    network: Classifier,
    data: LongTailData,
    state: RunState,
    folder: RunFolder,
    seed: int,
    precision: str,
    helper: Helper | None,
    description: Manifest,
) -> None:
    """All remaining stages of a recipe, and the files of the finished run."""
    device, every = data.train.images.device, folder.snapshots()

    def keep(path: Path, **more: Any) -> None:
        save_checkpoint(path, network, at_present(description, recipe, state, **more), ordinary_state(network))

    def keep_snapshot() -> None:
        if every and len(state.history) % every == 0:
            keep(folder.snapshot(len(state.history)))

    with side_stream(device):
        for index, stage in enumerate(recipe.stages):
            context = entry_context(stage, data, seed, index)
            add_parts(stage, network, data, context.generator, helper, recipe.normalization)
            enter(stage, network, context)
            if index >= state.stage:
                state.stage = index
                if not state.history:
                    keep_snapshot()
                if stage.epochs:
                    run_stage(stage, network, data, state, folder, seed, precision, keep_snapshot)
                else:
                    pass_through(stage, network, data, state, folder, precision, keep_snapshot)
                state.epoch, state.model, state.optimizer, state.average = 0, {}, {}, {}
    keep(folder.result, history_sha256=folder.save_history(state))
    folder.finish()


def initial_model(recipe: Recipe, architecture: str, data: LongTailData, seed: int) -> Classifier:
    """A fresh network drawn from ``seed``, leaving torch's global generator as it was."""
    with seeded(seed):
        channels = data.train.images.shape[1]
        network = build_model(architecture, data.num_classes, channels, recipe.head, recipe.scale)
        if recipe.normalization:
            recipe.normalization.apply(network)
        return network


def entry_context(stage: Stage, data: LongTailData, seed: int, index: int) -> Context:
    """What the changes before a stage's first epoch may know; they draw as epoch 0 of it."""
    counts = torch.tensor(data.class_counts, device=data.train.images.device)
    return Context(counts, 0, stage.epochs, epoch_generator(seed, index, 0))


def enter(stage: Stage, network: Classifier, context: Context) -> None:
    """Change the network as a stage asks before its first epoch.

    A resumed run enters all stages up to its own again, for their structure; its weights are loaded afterwards.
    """
    for change in stage.enter:
        change(network, context)
    for name, p in network.named_parameters():
        p.requires_grad_(stage.trainable == "all" or f"{name}.".startswith(f"{stage.trainable}."))


def make_optimizer(stage: Stage, network: Classifier) -> torch.optim.SGD:
    """SGD with one group of parameters for each factor of the learning rate."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, p in network.named_parameters():
        if p.requires_grad:
            factor = next((f for prefix, f in stage.lr_factors if name.startswith(prefix)), 1.0)
            groups.setdefault(factor, []).append(p)
    return torch.optim.SGD(
        [{"params": parameters, "factor": factor} for factor, parameters in groups.items()],
        lr=stage.lr, momentum=stage.momentum, weight_decay=stage.weight_decay, nesterov=stage.nesterov,
    )  # fmt: skip


def regrouped(saved: dict[str, Any], optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Any]:
    """The saved state of an optimizer; earlier ones had a group for every parameter."""
    if len(saved["param_groups"]) == len(optimizer.param_groups):
        return saved
    number = {p: i for i, p in enumerate(p for p in network.parameters() if p.requires_grad)}
    ordered = [number[p] for group in optimizer.param_groups for p in group["params"]]
    state = {new: saved["state"][old] for new, old in enumerate(ordered) if old in saved["state"]}
    return {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}


def put_back(state: RunState, network: nn.Module, optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Give a network and its optimizer what a state, read from ``path``, holds of them, if it fits.

    Raises:
        UserError: it does not.
    """
    check_tensors(state.model, network.state_dict(), path, "model")
    network.load_state_dict(state.model)
    try:
        saved = regrouped(state.optimizer, optimizer, network)
    except (KeyError, TypeError, AttributeError, IndexError):
        raise damaged(path, "its optimizer does not fit this stage") from None
    ordered = [p for group in optimizer.param_groups for p in group["params"]]
    check_optimizer(saved, optimizer.state_dict(), ordered, path)
    optimizer.load_state_dict(saved)


def run_stage(
    stage: Stage,
    network: Classifier,
    data: LongTailData,
    state: RunState,
    folder: RunFolder,
    seed: int,
    precision: str,
    after_epoch: Callable[[], None] = lambda: None,
) -> None:
    """All remaining epochs of one stage; after each ``after_epoch()`` is called and the state saved."""
    device = data.train.images.device
    optimizer = make_optimizer(stage, network)
    if state.model:
        put_back(state, network, optimizer, folder.path / "state.pt")
    counts = torch.tensor(data.class_counts, device=device)
    cast = autocast(precision, device)
    average = start_average(stage, network, state, folder.path / "state.pt")
    steps = stage_steps(network, optimizer, stage.loss, stage.rule, device)
    replays = Replays() if device.type == "cuda" else None
    saved = time.monotonic()
    with progress(stage.epochs, stage.name, "epochs") as bar:
        bar.update(state.epoch)
        for epoch in range(state.epoch + 1, stage.epochs + 1):
            lr = stage.lr * stage.schedule.factor(epoch, stage.epochs)
            for group in optimizer.param_groups:
                group["lr"] = lr * group["factor"]
            context = replace(epoch_context(counts, stage, epoch, seed, state.stage, cast), replayed=replays)
            loss = run_epoch(stage, network, steps, data, context)
            if average and stage.averaging and stage.averaging.averages(epoch, stage.epochs):
                average.update_parameters(network)
                state.average = average.state_dict()
                if epoch == stage.epochs:
                    after = epoch_context(counts, stage, epoch + 1, seed, state.stage, cast)
                    whole = replace(stage, drop_last=len(data.train) >= stage.batch_size)
                    batches = training_batches(whole, deepcopy(network), data, after)
                    end_in_average(network, average, (b.x for b in batches), cast)
            tested = evaluate(network, data.test, data.num_classes, cast)
            if not math.isfinite(loss + tested.mean):
                raise FloatingPointError(
                    f"training diverged in epoch {epoch} of stage {stage.name!r} (loss {loss}, test loss "
                    f"{tested.mean}): what was saved before is kept; try a smaller learning rate or radius"
                )
            row = {"stage": stage.name, "epoch": epoch, "lr": lr, "loss": loss}
            state.history.append({**row, **accuracy_row(tested, data)})
            state.epoch = epoch
            state.model, state.optimizer = network.state_dict(), optimizer.state_dict()
            after_epoch()
            if device.type == "cpu" or epoch == stage.epochs or time.monotonic() > saved + SECONDS_LOST:
                folder.save(state)
                saved = time.monotonic()
            bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{state.history[-1]['accuracy']:.3f}")
            bar.update()


def pass_through(
    stage: Stage,
    network: Classifier,
    data: LongTailData,
    state: RunState,
    folder: RunFolder,
    precision: str,
    after_epoch: Callable[[], None] = lambda: None,
) -> None:
    """A stage without epochs: what entering it made of the network is tested, and the state saved."""
    if state.model:
        check_tensors(state.model, network.state_dict(), folder.path / "state.pt", "model")
        network.load_state_dict(state.model)
        return
    tested = evaluate(network, data.test, data.num_classes, autocast(precision, data.train.images.device))
    row = {"stage": stage.name, "epoch": 0, "lr": 0.0, "loss": math.nan}
    state.history.append({**row, **accuracy_row(tested, data)})
    state.model = network.state_dict()
    after_epoch()
    folder.save(state)


def run_epoch(stage: Stage, network: Classifier, steps: Steps, data: LongTailData, context: Context) -> float:
    """One epoch of steps; the mean training loss."""
    network.train()
    if stage.trainable.startswith("head") and stage.frozen_batchnorm:
        network.backbone.eval()
    rule, normalized = stage.rule, normalized_layers(network)
    if isinstance(rule, EpochRule):
        rule = rule.for_epoch(network, training_batches(stage, network, data, context.apart()), context)
    total, seen = torch.zeros((), dtype=torch.float64, device=data.train.images.device), 0
    for batch in training_batches(stage, network, data, context):
        power_iteration(normalized)
        total += steps(rule, batch, context).double() * len(batch.x)
        seen += len(batch.x)
    return float(total) / seen


def epoch_context(counts: Tensor, stage: Stage, epoch: int, seed: int, index: int, cast: Any) -> Context:
    """What a loss and a rule may know in an epoch of stage number ``index``."""
    generator, noise = epoch_generator(seed, index, epoch), epoch_generator(seed, index, epoch, "/rule")
    return Context(counts, epoch, stage.epochs, generator, noise, cast)


def training_batches(stage: Stage, network: nn.Module, data: LongTailData, context: Context) -> Iterator[Batch]:
    """Sampled, augmented, normalised, mixed and transformed batches of one epoch; transforms consult the network."""
    train, generator = data.train, context.generator
    late = stage.late(context.epoch)
    sampler = late.sampler if late else stage.sampler
    indices = epoch_indices(sampler, train.labels.cpu(), data.num_classes, generator).to(train.labels.device)
    smallest = stage.batch_size if stage.drop_last else 2
    chunks = [chunk for chunk in indices.split(stage.batch_size) if len(chunk) >= smallest]
    pixels = augment_batches(train.images, chunks, data.augmentation, data.padding, generator)
    for chunk, images in zip(chunks, pixels, strict=True):
        x, y = train.normalize(images), train.labels[chunk]
        batch = Batch(channels_last(x), y)
        if stage.mixup:
            mixed, partner, lam = mixup(x, stage.mixup, generator)
            batch = Batch(channels_last(mixed), y, y[partner], lam)
        if late and late.transform:
            with torch.enable_grad():
                batch = late.transform(network, batch, train, context)
        yield batch


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def evaluate(
    network: nn.Module, images: ImageSet, num_classes: int, cast: Any, batch_size: int | None = None
) -> ClassSums:
    """Cross-entropy and right answers by class in eval mode; the mode is restored."""
    batch_size = batch_size or (500 if images.images.device.type == "cpu" else 2500)

    def forward(x: Tensor) -> Tensor:
        with cast():
            return network(channels_last(images.normalize(x))).float()

    pairs = zip(images.images.split(batch_size), images.labels.split(batch_size), strict=True)
    batches = ((x, y, torch.ones_like(y, dtype=torch.float32)) for x, y in pairs)
    training = network.training
    network.eval()
    try:
        loss = partial(F.cross_entropy, reduction="none")
        return class_sums(forward, batches, loss, images.labels, num_classes, num_classes)
    finally:
        network.train(training)


def accuracy_row(sums: ClassSums, data: LongTailData) -> dict[str, float]:
    """Test columns of the history; group accuracies are means over the classes of the group."""
    per_class = sums.class_accuracies
    row = {"test_loss": sums.mean, "accuracy": sums.accuracy}
    for group, classes in data.groups.items():
        row[f"accuracy_{group}"] = float(per_class[list(classes)].mean()) if classes else float("nan")
    return row | {f"accuracy_class_{c}": float(a) for c, a in enumerate(per_class)}
