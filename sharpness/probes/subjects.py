"""What can be probed: an objective, a model with data, or a checkpoint with the data it was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from sharpness.checkpoints import Checkpoint, load_checkpoint
from sharpness.engine import resolve_device
from sharpness.errors import UserError, choose
from sharpness.methods.training_loss import training_loss
from sharpness.objective import Objective

SPLITS = ("train", "test")


def checkpoint_objective(
    checkpoint: Checkpoint | str | Path,
    split: str = "train",
    loss: str = "ce",
    data_root: str | None = None,
    limit_per_class: int | None = None,
    device: str | None = None,
    **options: Any,
) -> Objective:
    """The objective of a checkpoint on its own data, without augmentation.

    Args:
        split: ``"train"``, rebuilt by the recorded recipe, or ``"test"``.
        loss: ``"ce"`` on calibrated logits, or ``"training"``: the loss it was trained with.
        limit_per_class: the first so many samples of every class, weighted so that the overall loss still counts
            every class by its size.
        device: such as ``"cuda"``; a GPU if there is one unless given.
        options: of :class:`~sharpness.Objective`.
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = load_checkpoint(checkpoint)
    choose("split", split, SPLITS)
    choose("loss", loss, ("ce", "training"))
    data = checkpoint.load_data(data_root)
    images = getattr(data, split)
    function = "ce" if loss == "ce" else training_loss(checkpoint.manifest)
    if limit_per_class is not None:
        counts = images.class_counts(data.num_classes)
        images = images.limit_per_class(limit_per_class)
        weights = (counts / images.class_counts(data.num_classes))[images.labels]
        options["weights"] = weights * (1 if loss == "ce" else function.weights(images.labels))  # type: ignore
    return Objective(
        checkpoint.model.to(resolve_device(device)),
        images,
        loss=function,
        num_classes=data.num_classes,
        groups=data.groups,
        class_names=data.class_names,
        **options,
    )


def as_objective(
    subject: Objective | nn.Module | Checkpoint | str | Path, data: Any = None, **options: Any
) -> Objective:
    """An objective as it is, of a model over ``data``, or of a checkpoint over its own data.

    Args:
        data: as :class:`~sharpness.Objective` takes it; for models.
        options: of :class:`~sharpness.Objective`, for models, or of :func:`checkpoint_objective`.

    Raises:
        UserError: a model without data, data for something that has its own, or another type.
    """
    if isinstance(subject, nn.Module):
        if data is None:
            raise UserError(f"{type(subject).__name__} is a model without data: pass data=(x, y), or an Objective")
        return Objective(subject, data, **options)
    if data is not None:
        raise UserError(f"data= is for models: {type(subject).__name__} has its own")
    if isinstance(subject, Checkpoint | str | Path):
        return checkpoint_objective(subject, **options)
    if not isinstance(subject, Objective):
        raise UserError(f"a {type(subject).__name__} cannot be probed: give an Objective, a model or a checkpoint")
    if options:
        raise UserError(f"{', '.join(options)}: an Objective has its own, give them when it is made")
    return subject
