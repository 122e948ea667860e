"""What can be probed: an objective, a model with data, or a checkpoint with the data it was trained on."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from sharpness.checkpoints import Checkpoint, find_checkpoints, load_checkpoint
from sharpness.data import DATASETS, ForeignData, LongTailData, load_data
from sharpness.data.cifar import LAYOUTS
from sharpness.engine import PerSampleLoss, resolve_device
from sharpness.errors import UserError, choose
from sharpness.methods import METHODS
from sharpness.methods.training_loss import training_loss
from sharpness.objective import Objective, Samples
from sharpness.probes.shared.training_set import training_set
from sharpness.probes.shared.trainings import run_names, trainings_by_path

SPLITS = ("train", "test")
logger = logging.getLogger("sharpness")


def labelled_checkpoints(
    paths: Sequence[str | Path], model: Callable[[], nn.Module] | None = None, each: bool = False, **options: Any
) -> dict[str, Checkpoint | list[Checkpoint]]:
    """Checkpoints by what they call themselves, or by path where two call themselves the same.

    Runs of one method, data and settings that differ in the seed alone are one label, with a list of them in the order
    of their seeds; that is told by what the files record, wherever they lie.

    Args:
        paths: files, or folders: see :func:`~sharpness.checkpoints.find_checkpoints`. Those of a folder come in the
            order of :data:`~sharpness.methods.METHODS`, so that a method has the same colour in every figure, then by
            path. A file of a folder that cannot be read is passed over with a warning; one that was named itself is an
            error.
        model: makes a network for each of them, where their architecture is not known here.
        each: keep every file apart, whatever differs.
        options: of :func:`~sharpness.load_checkpoint`.

    Raises:
        UserError: a path without checkpoints, a named file or all files of the folders that cannot be read.
    """
    read: dict[str, Checkpoint] = {}
    broken: list[UserError] = []
    for path in paths:
        found = find_checkpoints(path)
        known: dict[str, Checkpoint] = {}
        for file in found:
            network = None if model is None else model()
            try:
                checkpoint = load_checkpoint(file, model=network, **options)
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
    """Where its method stands among those known here; others come after them."""
    method = checkpoint.manifest.get("method")
    return list(METHODS).index(method) if method in METHODS else len(METHODS)


def checkpoint_objective(
    checkpoint: Checkpoint | str | Path,
    split: str = "train",
    loss: str | PerSampleLoss = "ce",
    data_root: str | None = None,
    limit_per_class: int | None = None,
    device: str | None = None,
    data: Any = None,
    imbalance: float | None = None,
    subset: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    download: bool = False,
    **options: Any,
) -> Objective:
    """The objective of a checkpoint on its own data, or on ``data``, without augmentation.

    Args:
        split: ``"train"``, rebuilt by the recorded recipe, or ``"test"``.
        loss: ``"ce"`` on calibrated logits, ``"training"``: the loss it was trained with, or a function, as
            :class:`~sharpness.Objective` takes it.
        limit_per_class: the first so many samples of every class, weighted so that the overall loss still counts
            every class by its size.
        device: such as ``"cuda"``; a GPU if there is one unless given.
        data: what to probe on, where the file does not record it: the name of a data set, whose long tail is cut and
            normalised as the checkpoint's family does; images of one's own, :func:`~sharpness.data.read_images`; or
            anything else that :class:`~sharpness.Objective` takes.
        imbalance: of the named data set's long tail, where the file does not record it.
        subset: recipe of the named data set's images, where the family has none of its own.
        mean: per channel, of pixels in [0, 1]: normalises named data in place of what the checkpoint's family does; of
            tensors, what they were normalised by, see :class:`~sharpness.Objective`.
        std: likewise.
        download: fetch the files of recorded or named data if they are missing.
        options: of :class:`~sharpness.Objective`; given ``classes`` or ``group_by``, what is known of the data's own
            classes does not apply.

    Raises:
        UserError: no data, or settings of named data for other data.
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = load_checkpoint(checkpoint)
    choose("split", split, SPLITS)
    if isinstance(loss, str):
        choose("loss", loss, ("ce", "training"))
    model = checkpoint.model.to(resolve_device(device))
    named: dict[str, Any] = {"data_root": data_root, "imbalance": imbalance, "subset": subset, "mean": mean, "std": std}
    named |= {"download": download or None, "split": split if split != "train" else None}
    named |= {"loss='training'": loss if loss == "training" else None}
    if data is not None and not isinstance(data, str | LongTailData):
        if not isinstance(data, ForeignData):
            named |= {"mean": None, "std": None, "limit_per_class": limit_per_class}
        wrong = [name for name, value in named.items() if value is not None]
        if wrong:
            raise UserError(
                f"{', '.join(wrong)}: only for recorded or named data, the given data are taken as they are"
            )
    if isinstance(data, ForeignData):
        images = own_images(checkpoint, data)
        if limit_per_class is not None:
            images = images.limit_per_class(limit_per_class)
        return Objective(model, images, loss, **options)
    split_otherwise = options.get("classes") is not None or options.get("group_by") is not None
    if data is not None and not isinstance(data, str | LongTailData):
        for name, attribute in {"class_names": "class_names", "train_counts": "class_counts"}.items():
            prepared = split_otherwise or isinstance(data, Samples)
            if not prepared and isinstance(known := getattr(data, attribute, None), tuple):
                options.setdefault(name, known)
        return Objective(model, data, loss, mean=mean, std=std, **options)
    data = checkpoint_data(checkpoint, data, data_root, imbalance, subset, split, mean, std, download)
    if loss == "training" and checkpoint.is_foreign:
        raise UserError(f"{checkpoint.path} does not record its training loss: pass loss='ce', or build an Objective")
    images = getattr(data, split)
    function = training_loss(checkpoint.manifest) if loss == "training" else loss
    if limit_per_class is not None:
        counts = images.class_counts(data.num_classes)
        images = images.limit_per_class(limit_per_class)
        weights = (counts / images.class_counts(data.num_classes))[images.labels]
        of_loss = getattr(function, "weights", None)
        options["weights"] = weights * (of_loss(images.labels) if callable(of_loss) else 1)
    if not split_otherwise:
        described: dict[str, Any] = {"num_classes": data.num_classes, "class_names": data.class_names}
        trained = training_set(checkpoint, data.longtail)
        if trained is not None and options.get("train_counts") is None:
            described |= {"train_counts": trained.class_counts, "groups": trained.groups}
        options = {**described, **options}
    return Objective(model, images, loss=function, **options)


def checkpoint_data(
    checkpoint: Checkpoint,
    data: str | LongTailData | None = None,
    data_root: str | None = None,
    imbalance: float | None = None,
    subset: str | None = None,
    split: str = "train",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    download: bool = False,
) -> LongTailData:
    """The long-tailed data of a checkpoint: those on record, or a named set as its family cuts and normalises it.

    Raises:
        UserError: neither is known, or the classes are not those of the checkpoint.
    """
    manifest = checkpoint.manifest
    if data is None:
        if "longtail" not in manifest:
            known = manifest.get("dataset")
            remedy = f"data={known!r}" if known in DATASETS else "data='cifar10-lt', or images of your own"
            raise UserError(
                f"{checkpoint.path} does not record the images it was trained on: pass {remedy} (--data or --images)"
            )
        given = {"imbalance": imbalance, "subset": subset, "mean": mean, "std": std}
        idle = [name for name, value in given.items() if value is not None]
        if idle:
            raise UserError(f"{checkpoint.path} records its data: leave out {', '.join(idle)}")
        return checkpoint.load_data(data_root, download, split)
    if isinstance(data, str):
        recipe = dict(manifest.get("subset") or {}) if data == manifest.get("dataset") else {}
        recipe = {k: v for k, v in recipe.items() if k in ("profile", "subset")}
        recipe |= {k: manifest[k] for k in ("profile", "imbalance") if recipe and k in manifest}
        cut = data not in LAYOUTS
        unknown = checkpoint.is_foreign and data == manifest["dataset"] and not recipe and subset is None and cut
        if unknown and split == "train":
            raise UserError(
                f"which images of {data} {checkpoint.path} was trained on depends on a seed that is not recorded: pass "
                "subset='seed:<int>', or split='test'"
            )
        told = {k: v for k, v in {"imbalance": imbalance, "subset": subset}.items() if v is not None}
        choose("data set", data, list(DATASETS))
        data = load_data(data, data_root=data_root, download=download, **recipe | told)
        told |= {"imbalance": recipe["imbalance"]} if "imbalance" in recipe else {}
        assumed = [name for name in ("imbalance", "subset") if name not in told and cut]
        saw = manifest.get("dataset") or data.longtail.dataset
        if checkpoint.is_foreign and saw != data.longtail.dataset:
            logger.info(
                "data: %s; %s was trained on %s, which training images and groups are of",
                data.longtail.dataset, checkpoint.path, saw,
            )  # fmt: skip
        elif checkpoint.is_foreign and assumed:
            tail, options = data.longtail, ", ".join(f"--{name}" for name in assumed)
            logger.info(
                "data: %s, imbalance %g, images of subset %s (the file does not tell its %s, the usual is assumed: %s)",
                tail.dataset, tail.imbalance, tail.subset, " and ".join(assumed), options,
            )  # fmt: skip
    if manifest.get("class_order") not in (None, "label"):
        raise UserError(
            f"{checkpoint.path} numbers its classes otherwise than {data.longtail.dataset}: class_order "
            "(--class-order) is for images of your own (--images), leave it out"
        )
    classes = manifest["model"]["num_classes"]
    if classes not in (None, data.num_classes):
        raise UserError(
            f"{checkpoint.path} tells {classes} classes apart and {data.longtail.dataset} has {data.num_classes}"
        )
    channels = manifest["model"].get("in_channels")
    if channels not in (None, data.train.images.shape[1]):
        raise UserError(
            f"{checkpoint.path} takes images of {channels} channels, those of {data.longtail.dataset} have "
            f"{data.train.images.shape[1]}"
        )
    if (mean is None) != (std is None):
        raise UserError("give mean and std together, or neither")
    constants = manifest.get("normalization")
    if mean is None and checkpoint.is_foreign and constants and len(constants["mean"]) == data.train.images.shape[1]:
        mean, std = constants["mean"], constants["std"]
    if mean is not None and std is not None:
        train, test = (replace(part, mean=tuple(mean), std=tuple(std)) for part in (data.train, data.test))
        data = replace(data, train=train, test=test)
    return data


def own_images(checkpoint: Checkpoint, data: ForeignData) -> ForeignData:
    """Images of one's own as a checkpoint takes them: normalised by its constants, unless others were given, and with
    its order of classes. A notice says which constants were taken.

    Raises:
        UserError: they have other classes, or their order is not known.
    """
    manifest = checkpoint.manifest
    classes = manifest["model"]["num_classes"]
    if classes not in (None, data.num_classes):
        raise UserError(
            f"{checkpoint.path} tells {classes} classes apart and the data have {data.num_classes}: name the others, "
            "too, in class_counts"
        )
    constants = manifest.get("normalization")
    if data.estimated and constants is not None and len(constants["mean"]) == data.inputs.shape[1]:
        data = replace(data, mean=tuple(constants["mean"]), std=tuple(constants["std"]), estimated=False)
        _tell(data, f"as the code behind {checkpoint.path} does")
    elif data.estimated:
        _tell(data, "computed from them; give those of the training, if you know them")
    trained = training_set(checkpoint)
    if data.class_counts == data.class_totals and trained is not None and trained.num_classes == data.num_classes:
        data = replace(data, class_counts=trained.class_counts)
    elif data.class_counts == data.class_totals:
        logger.info("training images of each class are taken to be the images given; class counts tell others")
    return data.in_class_order(manifest.get("class_order") or "label")


def _tell(data: ForeignData, whence: str) -> None:
    mean, std = (", ".join(f"{v:.3f}" for v in values or ()) for values in (data.mean, data.std))
    logger.info("images are normalised by mean %s and std %s, %s", mean, std, whence)


def labelled_objectives(
    checkpoints: Mapping[str, Checkpoint | list[Checkpoint]], **options: Any
) -> dict[str, Objective | dict[str, Objective]]:
    """The objective of every checkpoint, those of several trainings by their names.

    Args:
        options: of :func:`checkpoint_objective`.
    """
    found: dict[str, Objective | dict[str, Objective]] = {}
    for label, entry in checkpoints.items():
        if isinstance(entry, Checkpoint):
            found[label] = checkpoint_objective(entry, **options)
        else:
            made = [checkpoint_objective(one, **options) for one in entry]
            found[label] = dict(zip(run_names(entry), made, strict=True))
    return found


def as_objective(
    subject: Objective | nn.Module | Checkpoint | str | Path, data: Any = None, **options: Any
) -> Objective:
    """An objective as it is, of a model over ``data``, or of a checkpoint over its own data.

    Args:
        data: as :class:`~sharpness.Objective` takes it, for models, or :func:`checkpoint_objective`.
        options: of :class:`~sharpness.Objective`, for models, or of :func:`checkpoint_objective`.

    Raises:
        UserError: a model or a foreign checkpoint without data, data for an objective, or another type.
    """
    if isinstance(subject, nn.Module):
        if data is None:
            raise UserError(f"{type(subject).__name__} is a model without data: pass data=(x, y), or an Objective")
        return Objective(subject, data, **options)
    if isinstance(subject, Checkpoint | str | Path):
        return checkpoint_objective(subject, data=data, **options)
    if data is not None:
        raise UserError(f"data= is for models: {type(subject).__name__} has its own")
    if not isinstance(subject, Objective):
        raise UserError(f"a {type(subject).__name__} cannot be probed: give an Objective, a model or a checkpoint")
    if options:
        raise UserError(f"{', '.join(options)}: an Objective has its own, give them when it is made")
    return subject
