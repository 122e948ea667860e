"""Training: stages of SGD on images that are stored on the device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from sharpness.data import LongTailData
from sharpness.data.resized_crop import RESIZED_CROPS, has_originals
from sharpness.data.standardization import Standardization
from sharpness.engine import distributed
from sharpness.engine.devices import exact_float32
from sharpness.engine.folded import Refolded
from sharpness.engine.undisturbed import without_autocast
from sharpness.errors import UserError, require_whole
from sharpness.methods import Recipe, Stage, build_recipe, flattened
from sharpness.models import BACKBONES, Classifier, ModelSpec
from sharpness.progress import progress
from sharpness.steps import Context
from sharpness.steps.perturbed import own_numbers
from sharpness.training.averaging import end_in_average, start_average
from sharpness.training.believed import check_finished, check_progress, check_tensors
from sharpness.training.epoch import epoch_context, evaluate, run_epoch, training_batches, untested
from sharpness.training.manifest import manifest_of
from sharpness.training.optimizer import make_optimizer, put_back
from sharpness.training.own_network import check_network, fingerprint
from sharpness.training.parts import Helper, add_parts, read_helper
from sharpness.training.precision import autocast, resolve_precision
from sharpness.training.pretrained import AT_RANDOM, Pretrained, architecture_of, fresh_network
from sharpness.training.processes import own_device, require_shares
from sharpness.training.run import Run
from sharpness.training.state import RunFolder, RunState, epoch_generator, run_name
from sharpness.training.steps import Replays, side_stream, stage_steps
from sharpness.training.watched import MakeWatcher

#: Seconds of training that an interruption may cost on a GPU, where saving the state may take over a tenth of an epoch.
SECONDS_LOST = 2.0


def train(
    method: str,
    data: LongTailData,
    out: str | Path | None = None,
    *,
    flatten: tuple[str, ...] = (),
    epochs: int | None = None,
    seed: int = 0,
    model: str | Callable[..., nn.Module] | None = None,
    batch_size: int | None = None,
    precision: str = "auto",
    device: str | torch.device | None = None,
    augmentation: str | None = None,
    shards: int = 1,
    pretrained: str | Path | None = None,
    resume: bool = False,
    snapshots: int | None = None,
    test_every: int = 1,
    monitor: MakeWatcher | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Train a model with a method's published recipe and save ``OUT/last.pt``, the weights after the last epoch.

    The test set is evaluated during training, but nothing is selected on it.

    Args:
        method: a name in ``sharpness.methods.METHODS``, or your own ``"package.module:recipe"``.
        data: training and test set, see ``load_data``.
        out: the run's folder; by default ``runs/DATA-METHOD-seedS``, with operations and options in the name if there
            are any. A finished identical run is reused.
        flatten: flattening operations, such as ``("sam:0.1", "swa")``: see ``sharpness.methods.flattened``.
        epochs: epochs of the first stage; later stages and schedules are scaled in proportion. By default as published.
        seed: seed of initialisation, sampling, augmentation and noise.
        model: an architecture; by default that of the data set. Your own is a function, a class, or
            ``"package.module:factory"``, which receives ``num_classes`` and ``in_channels`` if it takes them. With
            ``num_classes``, it makes a whole network (images to logits), for methods that do not replace the head;
            without, it makes a backbone (images to features of size ``num_features``), which gets the method's head.
        batch_size: by default as published, but halved until an epoch has ten steps.
        precision: ``"auto"``, ``"float32"`` or ``"bfloat16"`` (autocast).
        device: such as ``"cuda"``; by default a GPU if there is one.
        augmentation: a name in ``sharpness.data.AUGMENTATIONS``, such as ``"autoaugment-cutout"``; by default that of
            the data set. Any other one becomes part of the run's name and label.
        shards: V, the number of parts of every batch. BatchNorm, mixup and a method's additions act within a shard;
            loss and gradient are those of the whole batch. Under torchrun, each of W processes takes V / W shards; a
            single process runs all in turn and needs the memory of one. Results do not depend on W.
        pretrained: a checkpoint of the same architecture, of any family, such as torchvision's ImageNet weights.
            Training starts from its weights and buffers, with a classifier initialised from ``seed``.
        resume: resume an unfinished run in ``out``; it ends with the same weights as an uninterrupted run.
        snapshots: save a checkpoint every this many epochs (counted over all stages), starting with the initial
            weights, as ``OUT/snapshots/epoch-0001.pt``; a resumed run keeps them.
        options: options of the method, such as ``scope="all"`` for ``"cc-sam"``.
        test_every: number of epochs between tests in every stage; the last epoch of a stage and epochs with a snapshot
            are always tested. Other epochs have no test loss and no accuracy in the history.
        monitor: called with the network and the data; returns an observer that is called after every epoch.
            :class:`~sharpness.Monitor` itself can be passed. It does not change the weights, and its state resumes with
            the run.

    Returns:
        The history with one row per epoch: stage, epoch, lr, training loss, test loss and accuracies (fractions):
        overall, ``accuracy_many`` / ``_medium`` / ``_few`` and ``accuracy_class_0``, ... . A stage without epochs has
        one row with epoch 0 and no training loss. With SWA, the test columns of the averaging stage are those of the
        trained weights, except in its last epoch, where they are those of the average.

    Raises:
        UserError: unknown names, a folder that holds something else or the same run without snapshots, or a number of
            shards that does not fit the batch size or the number of processes.
        FloatingPointError: the training loss is not finite.

    >>> import tempfile
    >>> from sharpness.data import load_data
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     history = train("ce", load_data("digits-lt"), folder, epochs=2)
    >>> history.epoch.tolist()
    [1, 2]
    """
    if snapshots is not None and not (isinstance(snapshots, int) and snapshots >= 1):
        raise UserError(f"snapshots={snapshots!r}: give the epochs from one to the next, at least 1")
    require_whole("test_every", test_every, 1)
    distributed.start()
    device = own_device(device)
    data = data.augmented(augmentation)
    recipe = build_recipe(method, data.longtail, **options)
    recipe = flattened(recipe, flatten).with_epochs(epochs).with_batch_size(batch_size, len(data.train))
    recipe = recipe.with_shards(shards, len(data.train))
    require_shares(shards)
    precision = resolve_precision(precision, device, data.train.images.shape[-1])
    begin = None if pretrained is None else Pretrained.read(pretrained)
    usual = architecture_of(recipe, data.default_model, begin is not None)
    architecture = BACKBONES.admit(model) if callable(model) else model or usual
    if recipe.pretrained and begin is None:
        recipe = recipe.noted(AT_RANDOM)
    network = initial_model(recipe, architecture, data, seed, begin)
    own = architecture not in BACKBONES.built_in()
    if own:
        check_network(network, recipe, data)
    helper = read_helper(recipe, data)
    training = _known(
        epochs=[s.epochs for s in recipe.stages],
        batch_size=[s.batch_size for s in recipe.stages],
        seed=seed,
        precision=precision,
        flatten=list(flatten),
        helper_sha256=helper.sha256 if helper else None,
        pretrained_sha256=begin.sha256 if begin else None,
        augmentation=data.other_augmentation,
        cropped=_cropped(data),
        shards=shards if shards != 1 else None,
    )
    identity = _known(
        method=method,
        options=options,
        data=data.longtail.to_dict(),
        data_sha256=data.train.sha256(),
        normalization=asdict(Standardization(data.train.mean, data.train.std)),
        model=architecture,
        network_sha256=fingerprint(network) if own else None,
        **training,
        snapshots=snapshots,
    )
    name = run_name(method, flatten, options, seed, data.other_augmentation, shards, begin is not None)
    name = f"{data.longtail.dataset}-{name}"
    folder = RunFolder(Path(out) if out else Path("runs") / name)
    # Only the first process accesses the folder: it sends what it reads to the others, which write nothing.
    with ExitStack() as stack:
        stack.enter_context(without_autocast())
        distributed.on_first(lambda: stack.enter_context(folder.held()))
        state = distributed.on_first(lambda: folder.claim(identity, resume))
        if state is None:
            history = distributed.on_first(lambda: check_finished(folder.path, folder.result, identity, training))
            distributed.on_first(folder.finish)
            return history
        if vars(state) != vars(RunState()):
            check_progress(state, recipe, folder.path / "state.pt")
        moved = replace(data, train=data.train.to(device), test=data.test.to(device))
        network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        description = manifest_of(recipe, data, {**identity, "training": training}, device.type, begin)
        every = distributed.on_first(folder.snapshots)
        watcher = None if monitor is None else monitor(network, moved)
        if watcher is not None and state.watched:
            watcher.load_state_dict(state.watched)
        run = Run(
            recipe, network, moved, state, folder, seed, precision, description, every, test_every, watcher, shards
        )
        carry_out(run, helper, begin)
        return distributed.on_first(folder.history)


def _cropped(data: LongTailData) -> str | None:
    """Return what resized crops are of, unless they are of the files: other pixels of images with the same digest."""
    return "stored images" if data.augmentation in RESIZED_CROPS and not has_originals(data.train.images) else None


def _known(**settings: Any) -> dict[str, Any]:
    """Return the settings that are not None; files of earlier versions have no entry for unset ones."""
    return {name: value for name, value in settings.items() if value is not None}


def carry_out(run: Run, helper: Helper | None, pretrained: Pretrained | None = None) -> None:
    """Train the remaining stages of a recipe, and write the files of the finished run."""
    state = run.state
    # cuDNN would use TF32 for what the card calls float32.
    with side_stream(run.device), exact_float32():
        for index, stage in enumerate(run.recipe.stages):
            # Finished stages are entered as well, so that the network has the structure of the saved weights.
            context = entry_context(stage, run.data, run.seed, index)
            add_parts(stage, run.network, run.data, context.generator, helper, run.recipe, pretrained)
            enter(stage, run.network, context)
            if index >= state.stage:
                state.stage = index
                if not state.history:
                    run.keep_snapshot()
                (run_stage if stage.epochs else pass_through)(stage, run)
                state.epoch, state.model, state.optimizer, state.average = 0, {}, {}, {}
    if not distributed.rank():
        run.keep(run.folder.result, history_sha256=run.folder.save_history(state))
        run.folder.finish()


def initial_model(
    recipe: Recipe, architecture: str, data: LongTailData, seed: int, pretrained: Pretrained | None = None
) -> Classifier:
    """Build the network of a recipe with its initial weights."""
    spec = ModelSpec(architecture, data.num_classes, data.train.images.shape[1], recipe.head, recipe.scale)
    return fresh_network(spec, recipe, pretrained, seed)


def entry_context(stage: Stage, data: LongTailData, seed: int, index: int) -> Context:
    """Return the context of the changes before a stage's first epoch, with the random numbers of epoch 0."""
    counts = torch.tensor(data.train_counts, device=data.train.images.device)
    return Context(counts, 0, stage.epochs, epoch_generator(seed, index, 0))


def enter(stage: Stage, network: Classifier, context: Context) -> None:
    """Apply the changes of a stage to the network, and select the parameters that the stage trains."""
    for change in stage.enter:
        change(network, context)
    for name, p in network.named_parameters():
        p.requires_grad_(stage.trainable == "all" or f"{name}.".startswith(f"{stage.trainable}."))


def run_stage(stage: Stage, run: Run) -> None:
    """Train the remaining epochs of a stage, and save the state after each.

    Raises:
        FloatingPointError: the training loss or the test loss is not finite.
    """
    network, data, state = run.network, run.data, run.state
    optimizer = make_optimizer(stage, network)
    if state.model:
        put_back(state, network, optimizer, run.saved_state)
    distributed.copy_from_first(network.state_dict().values())
    counts, cast = run.counts, autocast(run.precision, run.device)
    average = start_average(stage, network, state, run.saved_state)
    steps = stage_steps(network, optimizer, stage.loss, stage.rule, run.device)
    replays = Replays() if run.device.type == "cuda" else None
    refolded = Refolded(network, cast)

    def context_of(epoch: int) -> Context:
        return replace(epoch_context(counts, stage, epoch, run.seed, state.stage, cast), shards=run.shards)

    saved = time.monotonic()
    with progress(stage.epochs, stage.name, "epochs") as bar:
        bar.update(state.epoch)
        for epoch in range(state.epoch + 1, stage.epochs + 1):
            lr = stage.lr * stage.schedule.factor(epoch, stage.epochs)
            for group in optimizer.param_groups:
                group["lr"] = lr * group["factor"]
            # Each epoch has a new context, whose generators depend only on seed, stage and epoch. A resumed run
            # therefore draws the same numbers without a saved generator state.
            context = replace(context_of(epoch), replayed=replays)
            # Dropout in a user's network draws from torch's global generator, whose state is not saved.
            with own_numbers(epoch_generator(run.seed, state.stage, epoch, "/network")):
                loss = run_epoch(stage, network, steps, data, context)
            if average and stage.averaging and stage.averaging.averages(epoch, stage.epochs):
                average.update_parameters(network)
                state.average = average.state_dict()
                if epoch == stage.epochs:
                    # Before the test, so that history, snapshot and result of the last epoch belong to the average.
                    # Transforms use a copy of the network, because during this pass the network itself has the averaged
                    # weights, and its BatchNorm is in training mode.
                    after = context_of(epoch + 1)
                    whole = replace(stage, drop_last=len(data.train) >= stage.batch_size)
                    batches = training_batches(whole, deepcopy(network), data, after)
                    images = (part.x for batch in batches for part, _ in batch.parts(after))
                    end_in_average(network, average, images, cast)
            due = epoch % run.test_every == 0 or epoch == stage.epochs or run.snapshot_due(len(state.history) + 1)
            tested = untested(data.num_classes)
            if due:
                call = refolded.now(data.test.normalize(data.test.images[:4]))
                tested = evaluate(network, data.test, data.num_classes, cast, call=call)
            if not math.isfinite(loss + (tested.mean if due else 0)):
                raise FloatingPointError(
                    f"training diverged in epoch {epoch} of stage {stage.name!r} (loss {loss}, test loss "
                    f"{tested.mean}): what was saved before is kept; try a smaller learning rate or radius"
                )
            state.optimizer = optimizer.state_dict()
            run.note(stage, epoch, lr, loss, tested)
            if run.device.type == "cpu" or epoch == stage.epochs or time.monotonic() > saved + SECONDS_LOST:
                run.save()
                saved = time.monotonic()
            accuracies = [row["accuracy"] for row in state.history if math.isfinite(row["accuracy"])]
            bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{accuracies[-1]:.3f}" if accuracies else "-")
            bar.update()


def pass_through(stage: Stage, run: Run) -> None:
    """Test the network after the changes of a stage of 0 epochs, and save the state."""
    state, network = run.state, run.network
    if state.model:
        check_tensors(state.model, network.state_dict(), run.saved_state, "model")
        network.load_state_dict(state.model)
        return
    tested = evaluate(network, run.data.test, run.data.num_classes, autocast(run.precision, run.device))
    run.note(stage, 0, 0.0, math.nan, tested)
    run.save()
