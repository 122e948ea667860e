"""Keywords for making an objective of a model or a checkpoint, for type checkers; a test compares them with both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict

from torch import Tensor

from sharpness.engine.class_sums import PerSampleLoss
from sharpness.keywords import Default
from sharpness.objective.description import SharedSampleOptions
from sharpness.objective.temperature import Temperature


class SharedOptions(SharedSampleOptions, total=False):
    """Keywords of :class:`~sharpness.Objective` that :func:`~sharpness.checkpoint_objective` passes on."""

    batch_size: int | str
    parameters: str
    batchnorm: str
    output: Callable[[Any], Tensor] | None
    memory: float | None
    logits: str | float | Temperature
    held_out: Any


class ImageOptions(TypedDict, total=False):
    """Keywords of recorded or named data.

    Attributes:
        imbalance: imbalance factor of the named data set, if the file does not record it.
        subset: how the images of the named data set are selected, if the family does not determine it.
        mean: channel means, for pixels in [0, 1]. For named data, they replace the normalisation of the checkpoint's
            family; for tensors, they state how these were normalised, see :class:`~sharpness.Objective`.
        std: channel standard deviations, with ``mean``.
        download: download the files of the data set if they are missing.
        class_order: the model's numbering of the classes, as :func:`~sharpness.data.class_order` takes it, if it
            differs from that of its family; your own images are renumbered accordingly.
    """

    imbalance: float | None
    subset: str | None
    mean: Sequence[float] | None
    std: Sequence[float] | None
    download: Annotated[bool, Default(False)]
    class_order: str | Path | Sequence[int] | None


class MeasureOptions(SharedOptions, ImageOptions, total=False):
    """Keywords of both that :func:`~sharpness.measure` takes in addition to its own."""

    loss: str | PerSampleLoss
    split: str
    data_root: str | None
    limit_per_class: int | None
    device: str | None


class ObjectiveOptions(SharedOptions, total=False):
    """All keywords that :func:`~sharpness.checkpoint_objective` passes on."""

    train_counts: Sequence[int] | None


class CheckpointOptions(ObjectiveOptions, ImageOptions, total=False):
    """Keywords of :func:`~sharpness.checkpoint_objective` in addition to its named parameters."""


class Options(MeasureOptions, ObjectiveOptions, total=False):
    """All keywords of both, as probes take them in ``options=``."""
