"""The loss as a measure."""

from __future__ import annotations

import numpy as np

from sharpness.engine.class_sums import mean_error
from sharpness.probes.measures.measure import Measure, NoSettings, Subject
from sharpness.probes.shared.column import Column, sample_freedom
from sharpness.statistics.estimate import interval


def loss(subject: Subject, settings: NoSettings) -> dict[str, Column]:
    """Compute the losses L_c and L, with Student's intervals over images."""
    losses = subject.base.losses
    return means_over_images(subject, "loss", losses, keeps_sign=bool((losses >= 0).all()))


def means_over_images(subject: Subject, name: str, values: np.ndarray, keeps_sign: bool = True) -> dict[str, Column]:
    """Make the column of weighted means of values (n,) of all images, with Student's intervals over images."""
    weights, rows = subject.base.rows[1], rows_of_samples(subject)
    means = np.array([np.average(values[row], weights=weights[row]) if row.any() else np.nan for row in rows])
    errors = np.array([mean_error(values[row], weights[row]) for row in rows])
    ends = interval(means, errors, sample_freedom(subject.objective), keeps_sign=keeps_sign)
    return {name: Column.of_images(subject.objective, means, errors, ends)}


def rows_of_samples(subject: Subject) -> list[np.ndarray]:
    """Masks (n,) of the samples of every class and, last, of all samples."""
    classes = subject.objective.classes.numpy()
    return [*(classes == c for c in range(subject.objective.num_classes)), np.ones(len(classes), dtype=bool)]


LOSS = Measure(
    "loss",
    loss,
    title="Loss",
    explained="the loss itself",
)
