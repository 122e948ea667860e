"""Keywords that make an objective of a model or a checkpoint, for type checkers; a test compares them with both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from sharpness.engine import PerSampleLoss
from sharpness.objective.description import SharedSampleOptions
from sharpness.objective.temperature import Temperature


class SharedOptions(SharedSampleOptions, total=False):
    """Keywords of :class:`~sharpness.Objective` that :func:`~sharpness.checkpoint_objective` hands on."""

    batch_size: int | str
    parameters: str
    batchnorm: str
    output: Callable[[Any], Tensor] | None
    memory: float | None
    logits: str | float | Temperature
    held_out: Any


class MeasureOptions(SharedOptions, total=False):
    """Keywords of both that :func:`~sharpness.measure` takes beside its own."""

    loss: str | PerSampleLoss
    mean: Sequence[float] | None
    std: Sequence[float] | None
    split: str
    data_root: str | None
    limit_per_class: int | None
    device: str | None
    imbalance: float | None
    subset: str | None
    download: bool
    class_order: str | Path | Sequence[int] | None


class ObjectiveOptions(SharedOptions, total=False):
    """All keywords that :func:`~sharpness.checkpoint_objective` hands on."""

    train_counts: Sequence[int] | None


class Options(MeasureOptions, ObjectiveOptions, total=False):
    """All keywords of both, as probes take them in ``options=``."""
