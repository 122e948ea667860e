"""Inputs of probes: objectives, models with data, or checkpoints with the data they were trained on."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import nn

from sharpness.checkpoints import Checkpoint, find_checkpoints, load_checkpoint
from sharpness.data import ForeignData, ImageSet, LongTailData
from sharpness.data.dataset import first_of_each
from sharpness.data.named_data import NamedData
from sharpness.engine.class_sums import PerSampleLoss
from sharpness.engine.devices import resolve_device
from sharpness.errors import UserError, choose
from sharpness.keywords import typed_keywords
from sharpness.methods import METHODS
from sharpness.methods.training_loss import TrainingLoss, training_loss
from sharpness.objective import Objective, Samples
from sharpness.objective.temperature import LOGITS
from sharpness.probes.shared.checkpoint_data import checkpoint_data, own_images, training_set
from sharpness.probes.shared.options import CheckpointOptions
from sharpness.probes.shared.trainings import run_names, trainings_by_path

#: What can be probed.
Subject = Objective | nn.Module | Checkpoint | str | Path
SPLITS = ("train", "val", "test")
#: Maximum number of images per class for fitting a temperature.
HELD_OUT = 200
logger = logging.getLogger("sharpness")


def labelled_checkpoints(
    paths: Sequence[str | Path], model: Callable[[], nn.Module] | None = None, each: bool = False, **options: Any
) -> dict[str, Checkpoint | list[Checkpoint]]:
    """Read checkpoints by label, or by path if several have the same label.

    Runs with the same method, data and settings that differ only in their seed share one label, whose value is the list
    of them in the order of their seeds. This is decided by what the files record, not by their location.

    Args:
        paths: files or folders, see :func:`~sharpness.checkpoints.find_checkpoints`. The checkpoints of a folder are
            sorted by the order of :data:`~sharpness.methods.METHODS`, so that a method has the same colour in every
            figure, then by path. A file in a folder that cannot be read is skipped with a warning; a file that was
            named explicitly raises an error.
        model: function that makes a network for each checkpoint, if the architecture is not known to this package.
        each: keep every file separate.
        options: options of :func:`~sharpness.load_checkpoint`.

    Raises:
        UserError: no paths, a path without checkpoints, or a named file or all files of the folders that cannot be
            read.
    """
    if not paths:
        raise UserError("no paths: give checkpoints, or folders of them")
    read: dict[str, Checkpoint] = {}
    broken: list[UserError] = []
    for path in paths:
        found = find_checkpoints(path)
        # A folder of many files may contain a broken one; a file that was named explicitly must be readable.
        known: dict[str, Checkpoint] = {}
        for file in found:
            try:
                # ``model`` is passed on, because our own files say with how many classes and channels to call it.
                checkpoint = load_checkpoint(file, model=model, **options)
            except UserError as error:
                if len(found) == 1:
                    raise
                broken.append(error)
                continue
            known[str(path) if len(found) == 1 else str(file)] = checkpoint
        read |= dict(sorted(known.items(), key=lambda item: _rank(item[1])))
    if not read:
        raise UserError(f"none of {len(broken)} files can be read; the first: {broken[0]}")
    for one in broken:
        logger.warning("passed over: %s", one)
    groups = {path: [path] for path in read} if each else trainings_by_path(read)
    names = Counter(read[members[0]].label for members in groups.values())
    labelled: dict[str, Checkpoint | list[Checkpoint]] = {}
    for common, members in groups.items():
        first = read[members[0]]
        labelled[first.label if names[first.label] == 1 else common] = (
            first if len(members) == 1 else [read[path] for path in members]
        )
    return labelled


def _rank(checkpoint: Checkpoint) -> int:
    """The position of a checkpoint's method in ``METHODS``; unknown methods come last."""
    method = checkpoint.manifest.method
    return list(METHODS).index(method) if method and method in METHODS else len(METHODS)


@typed_keywords()
def checkpoint_objective(
    checkpoint: Checkpoint | str | Path,
    split: str = "train",
    loss: str | PerSampleLoss = "ce",
    data_root: str | None = None,
    limit_per_class: int | None = None,
    device: str | None = None,
    data: Any = None,
    **given: Unpack[CheckpointOptions],
) -> Objective:
    """Build the objective of a checkpoint on its own data, or on ``data``, without augmentation.

    Args:
        checkpoint: as :func:`~sharpness.load_checkpoint` returns it, or its path.
        split: ``"train"`` (rebuilt from the recorded recipe), ``"test"``, or ``"val"`` if the data set has one.
        loss: ``"ce"`` on calibrated logits; ``"training"``, the loss the model was trained with; or a function, as
            :class:`~sharpness.Objective` takes it.
        data_root: the folder with the files of the data set.
        limit_per_class: use only the first samples of each class, this many; they are weighted so that each class still
            counts by its size in the overall loss, unless ``weights`` are given.
        device: such as ``"cuda"``; by default a GPU if there is one.
        data: the data to probe, if the file does not record them: the name of a data set, whose long tail is selected
            and normalised as in the checkpoint's family; your own images, see :func:`~sharpness.data.read_images`; or
            anything else that :class:`~sharpness.Objective` takes.
        given: options of :class:`~sharpness.Objective`. With ``classes`` or ``group_by``, information about the data
            set's own classes is not used. For recorded or named data, ``logits="temperature"`` is fitted on test images
            that are not probed, at most 200 per class, unless ``held_out`` is given.

    Returns:
        The objective on these images, with class names, training counts and groups as far as they are known.

    Raises:
        UserError: no data, or options for named data with other data.

    >>> import torch
    >>> images, labels = torch.zeros(2, 3, 32, 32), torch.tensor([0, 1])
    >>> objective = checkpoint_objective("zoo:ce", data=(images, labels), parameters="classifier")
    >>> objective.num_samples, objective.num_classes, objective.num_parameters
    (2, 10, 650)
    """
    options: dict[str, Any] = {**given}
    imbalance, subset, mean, std, download, class_order = (
        options.pop(name) for name in ("imbalance", "subset", "mean", "std", "download", "class_order")
    )
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = load_checkpoint(checkpoint)
    choose("split", split, SPLITS)
    if isinstance(loss, str):
        choose("loss", loss, ("ce", "training"))
    if loss == "training" and (logits := options.get("logits", LOGITS[0])) != LOGITS[0]:
        raise UserError(f"logits={logits!r}: the loss of a training has logits of its own scale, pass loss='ce'")
    if class_order is not None:
        checkpoint = checkpoint.in_class_order(class_order)
    model = checkpoint.model.to(resolve_device(device))
    name = data if isinstance(data, str) else None
    wanted = NamedData(name, data_root, imbalance, subset, split, mean, std, download)
    if data is None or isinstance(data, str | LongTailData):
        images = checkpoint_data(checkpoint, wanted, data if isinstance(data, LongTailData) else None)
        return _read_from(checkpoint, _on_longtail(checkpoint, images, split, loss, limit_per_class, options))
    # Samples in memory are used as they are, so options that would select or change samples are refused.
    idle = [*wanted.given(), *(["loss='training'"] if loss == "training" else [])]
    if isinstance(data, ForeignData):
        _refuse(idle)
        own = own_images(checkpoint, data)
        own = own if limit_per_class is None else own.limit_per_class(limit_per_class)
        return _read_from(checkpoint, Objective(model, own, loss, **options))
    limited = ["limit_per_class"] if limit_per_class is not None else []
    _refuse([name for name in idle if name not in ("mean", "std")] + limited)
    if class_order is not None:
        raise UserError("class_order: the given samples are taken as they are: wrap them, data=read_images((x, y))")
    if not _splits_otherwise(options) and not isinstance(data, Samples):
        for name in ("class_names", "train_counts"):
            if options.get(name) is None and isinstance(known := getattr(data, name, None), tuple):
                options[name] = known
    return _read_from(checkpoint, Objective(model, data, loss, mean=mean, std=std, **options))


def _read_from(checkpoint: Checkpoint, objective: Objective) -> Objective:
    objective.origin = checkpoint.path
    return objective


def _refuse(idle: Sequence[str]) -> None:
    if idle:
        raise UserError(f"{', '.join(idle)}: only for recorded or named data, the given data are taken as they are")


def _splits_otherwise(options: Mapping[str, Any]) -> bool:
    """True if the user chose other classes than those of the data."""
    return options.get("classes") is not None or options.get("group_by") is not None


def _on_longtail(
    checkpoint: Checkpoint,
    data: LongTailData,
    split: str,
    loss: str | PerSampleLoss,
    limit_per_class: int | None,
    options: dict[str, Any],
) -> Objective:
    """Build the objective on one split of a long-tailed data set, with its classes and groups."""
    function = _training_loss(checkpoint) if loss == "training" else loss
    images: ImageSet = data.part(split)
    if options.get("logits") == "temperature" and options.get("held_out") is None:
        options["held_out"] = _not_probed(data.test, limit_per_class if split == "test" else 0)
    if limit_per_class is not None:
        counts = images.class_samples(data.num_classes)
        images = images.limit_per_class(limit_per_class)
        # Each image represents several of its class. The loss's own class weights are applied as well.
        if options.get("weights") is None:
            weights = (counts / images.class_samples(data.num_classes))[images.labels]
            of_loss = getattr(function, "weights", None)
            options["weights"] = weights * (of_loss(images.labels) if callable(of_loss) else 1)
    if not _splits_otherwise(options):
        described: dict[str, Any] = {"num_classes": data.num_classes, "class_names": data.class_names}
        trained = training_set(checkpoint, data.longtail)
        if trained is not None and options.get("train_counts") is None:
            described |= {"train_counts": trained.train_counts, "groups": trained.groups}
        options |= {name: value for name, value in described.items() if options.get(name) is None}
    return Objective(checkpoint.model, images, loss=function, **options)


def _not_probed(images: ImageSet, first: int | None) -> ImageSet | None:
    """Test images for fitting a temperature, without the ``first`` ones of every class; None if all are probed."""
    rest = torch.ones(len(images), dtype=torch.bool)
    if first != 0:
        rest[first_of_each(images.labels, first or len(images))] = False
    return images.subset(rest.nonzero().squeeze(1)).limit_per_class(HELD_OUT) if rest.any() else None


def _training_loss(checkpoint: Checkpoint) -> TrainingLoss:
    """The training loss of one of our own checkpoints."""
    manifest = checkpoint.manifest
    if checkpoint.is_foreign:
        raise UserError(f"{checkpoint.path} does not record its training loss: pass loss='ce', or build an Objective")
    if manifest.longtail is None or manifest.method is None or manifest.options is None:
        lacks = next(name for name in ("longtail", "method", "options") if getattr(manifest, name) is None)
        raise UserError(f"the checkpoint does not record its {lacks}, which its training loss depends on: loss='ce'")
    # A file must not decide what is imported: its method is used only if it is built in or the user has named it.
    known = METHODS.recorded(manifest.method, manifest.method_source, checkpoint.path)
    return training_loss(known, manifest.longtail, manifest.options)


def labelled_objectives(
    checkpoints: Mapping[str, Checkpoint | list[Checkpoint]], **options: Any
) -> dict[str, Objective | dict[str, Objective]]:
    """Build the objective of every checkpoint; those of several trainings of one label are keyed by their names.

    Args:
        options: options of :func:`checkpoint_objective`.
    """
    found: dict[str, Objective | dict[str, Objective]] = {}
    for label, entry in checkpoints.items():
        if isinstance(entry, Checkpoint):
            found[label] = checkpoint_objective(entry, **options)
        else:
            made = [checkpoint_objective(one, **options) for one in entry]
            found[label] = dict(zip(run_names(entry), made, strict=True))
    return found


def as_objective(subject: Subject, data: Any = None, **options: Any) -> Objective:
    """Return an objective unchanged, or build that of a model on ``data`` or of a checkpoint on its own data.

    Args:
        data: data in the form that :class:`~sharpness.Objective` takes for models, or :func:`checkpoint_objective` for
            checkpoints.
        options: options of :class:`~sharpness.Objective` for models, or of :func:`checkpoint_objective` for
            checkpoints.

    Raises:
        UserError: a model or a foreign checkpoint without data, data for an objective, or another type.
    """
    if isinstance(subject, nn.Module):
        if data is None:
            raise UserError(f"{type(subject).__name__} is a model without data: pass data=(x, y), or an Objective")
        return Objective(subject, data, **options)
    if isinstance(subject, Checkpoint | str | Path):
        return checkpoint_objective(subject, data=data, **options)
    if not isinstance(subject, Objective):
        what = subject.__name__ if isinstance(subject, type) else f"a {type(subject).__name__}"
        how = "an Objective, a model (nn.Module) or a checkpoint; several in a mapping, {label: model}"
        raise UserError(f"{what} cannot be probed: give {how}")
    if data is not None:
        raise UserError("data= is for models: Objective has its own")
    if options:
        raise UserError(f"{', '.join(options)}: an Objective has its own, give them when it is made")
    return subject
