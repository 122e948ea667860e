"""Open-set evaluation of checkpoints: known test images and an open set, with rejection at thresholds."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from sharpness.data import ImageSet, LongTailData, load_data
from sharpness.data.file_source import FileSource, Transform
from sharpness.data.image_files import class_folders
from sharpness.data.list_files import UNKNOWN, ImageList, read_list
from sharpness.data.rows import Rows
from sharpness.errors import UserError
from sharpness.objective import Objective
from sharpness.objective.temperature import temperature_of_logits
from sharpness.probes.open_set.protocol import THRESHOLD, Scored

logger = logging.getLogger("sharpness")
#: Thresholds of the sweep.
SWEEP = tuple(np.linspace(0, 1, 101).round(2).tolist())


@dataclass(frozen=True)
class OpenSetResult:
    """Predictions and scores of a model on known and unknown images.

    Attributes:
        label: label of the model.
        scored: scores from the model's logits, including the scale of the head.
        at_temperature: scores from logits divided by the temperature that fits the test labels best; None if none
            fits, as for a model that classifies all test images correctly.
        temperature: that temperature, or NaN.
        threshold: threshold of the table.
        open_names: (m,) class name of every image of the open set.
        class_names: (C,) names of the known classes.

    The temperature is fitted on the known test images themselves. It shows how much the published threshold depends on
    the scale of the logits; do not report these numbers next to published ones.
    """

    label: str
    scored: Scored
    at_temperature: Scored | None
    temperature: float
    threshold: float
    open_names: tuple[str, ...]
    class_names: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The row of the table, as plain values."""
        closed, rejected = self.scored.closed(), self.scored.at(self.threshold)
        cooled = self.at_temperature.closed() if self.at_temperature is not None else {}
        return {
            "model": self.label,
            "images": len(self.scored.labels),
            "open_images": len(self.scored.open_scores),
            **closed,
            "threshold": self.threshold,
            **{f"rejected_{n}" if "accuracy" in n and n != "open_accuracy" else n: v for n, v in rejected.items()},
            "temperature": self.temperature,
            **{f"{n}_at_temperature": cooled.get(n, np.nan) for n in ("calibration_error", "auroc", "fpr_at_95_tpr")},
        }

    def sweep(self, thresholds: Sequence[float] = SWEEP) -> pd.DataFrame:
        """Accuracies after rejection and F at every threshold."""
        return pd.DataFrame([{"model": self.label, "threshold": t, **self.scored.at(t)} for t in thresholds])

    def nearest(self, number: int = 5) -> list[tuple[str, str, float]]:
        """The most accepted classes of the open set: name, most frequent predicted class, and share accepted."""
        names = np.array(self.open_names)
        accepted = self.scored.open_scores >= self.threshold
        rows = []
        for name in dict.fromkeys(self.open_names):
            here = names == name
            taken = np.bincount(self.scored.open_predictions[here], minlength=self.scored.num_classes)
            mean = float(self.scored.open_scores[here].mean())
            rows.append((float(accepted[here].mean()), mean, name, self.class_names[int(taken.argmax())]))
        rows.sort(reverse=True)
        return [(name, taken_for, share) for share, _, name, taken_for in rows[:number]]


def evaluate_open_set(
    label: str, known: Objective, unknown: ImageSet, names: Sequence[str], *, threshold: float = THRESHOLD
) -> OpenSetResult:
    """Evaluate a model by the open long-tailed protocol.

    Args:
        label: label of the model.
        known: the model's objective on the test images.
        unknown: images of the open set.
        names: (m,) names of their classes.
        threshold: images whose largest softmax probability is below the threshold are rejected; 0.1 is the published
            one.

    Returns:
        Scores of known and unknown images, from the model's own logits and at its temperature, if there is one; a
        warning says why not.

    Raises:
        UserError: a threshold outside [0, 1], targets that are not labels, or images of the open set with other
            channels or another size.
    """
    if not 0 <= threshold <= 1:
        raise UserError(f"threshold {threshold}: give a probability from 0 to 1")
    if not known.has_answers:
        raise UserError(f"{label}: its targets are no labels of its outputs, which the protocol is about")
    if unknown.images.shape[1] != known.x.shape[1]:
        raise UserError(
            f"the open set has {unknown.images.shape[1]} channels and the test images {known.x.shape[1]}: give others"
        )
    ours, theirs = (" x ".join(map(str, images.shape[2:])) for images in (known.x, unknown.images))
    if ours != theirs:
        raise UserError(f"images of the open set are {theirs} and the test images {ours}: give others of the same size")
    # The open set is standardised like the model's own images.
    constants = known.image_constants
    if constants is not None:
        unknown = replace(unknown, mean=tuple(constants["mean"]), std=tuple(constants["std"]))
    # Labels of the open set are never used and may be any of the model's classes.
    others = replace(unknown, labels=torch.zeros_like(unknown.labels))
    opened = Objective(
        known.model,
        others,
        output=known._outputs.output,
        num_classes=known.num_classes,
        class_names=known.class_names,
    )
    logits, open_logits, labels = known.outputs().double(), opened.outputs().double(), known.y.cpu()

    def scored(temperature: float) -> Scored:
        known_logits, unknown_logits = ((u / temperature).numpy() for u in (logits, open_logits))
        return Scored.of(known_logits, labels.numpy(), unknown_logits, known.groups)

    plain, cooled, temperature = scored(1.0), None, np.nan
    try:
        temperature = temperature_of_logits(logits, labels)[0]
        cooled = scored(temperature)
    except UserError as error:  # the other columns do not depend on it
        logger.warning("%s: columns at the temperature are empty: %s", label, error)
    return OpenSetResult(label, plain, cooled, temperature, threshold, tuple(names), tuple(known.class_names))


def transform_of(known: Objective, resize: int | None = None) -> Transform:
    """The resize and crop that made the known images, with their channels.

    Args:
        known: objective on the known images.
        resize: shorter side before the crop, for images that do not record it; None if they were only resized.

    Returns:
        The recorded transform of listed or prepared images, otherwise one to the size of the images.
    """
    recorded = getattr(known.x.source, "transform", None) if isinstance(known.x, Rows) else None
    return recorded or Transform(int(known.x.shape[-1]), resize, 1 if known.x.shape[1] == 1 else 3)


def open_images(
    given: str | None, transform: Transform, root: str | None = None, data: LongTailData | None = None
) -> tuple[ImageSet, list[str]]:
    """Read the images of an open set and the names of their classes.

    Args:
        given: ``"cifar100"``, a folder of class folders or of images, or a list of ``path -1`` lines; None for the open
            part of ``data``.
        transform: resize and crop of files, those of the known images.
        root: folder with the CIFAR files, or the folder that the paths of the list are relative to.
        data: the model's own data.

    Returns:
        The images, and a class name for each.

    Raises:
        UserError: the data have no open part, or the open set does not exist.
    """
    if given is None:
        if data is None or data.open is None:
            raise UserError("the data have no open part: name an open set with --open FOLDER, LIST or cifar100")
        return data.open, ["open"] * len(data.open)
    if given == "cifar100":
        test = load_data("cifar100", data_root=root)
        return test.test, [test.class_names[c] for c in test.test.labels.tolist()]
    path = Path(given)
    if not path.exists():
        raise UserError(f"there is no open set {given}: give a folder, a list of 'path -1' lines, or cifar100")
    if path.is_dir():
        files = class_folders(path)
        base, names = path, list(files.names)
    else:
        listed = read_list("open", path)
        base, names = Path(root) if root else path.parent, list(listed.names)
    images = ImageList("open", path, names, np.full(len(names), UNKNOWN), np.arange(1, len(names) + 1))
    source = FileSource(images, base, transform)
    halves = (0.5,) * transform.channels
    found = ImageSet(Rows.of(source), source.labels, halves, halves)
    return found, [Path(name).parent.name or "open" for name in names]
