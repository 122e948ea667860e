"""The loss itself."""

from __future__ import annotations

import numpy as np

from sharpness.curvature import interval
from sharpness.engine import mean_error
from sharpness.probes.measures.measure import Measure, NoSettings, Subject
from sharpness.probes.shared.column import Column, sample_freedom


def loss(subject: Subject, settings: NoSettings) -> dict[str, Column]:
    """Losses L_c and L, with Student's intervals over images."""
    base, weights = subject.base, subject.base.rows[1]
    values = np.append(base.class_means, base.mean)
    errors = np.array([mean_error(base.losses[row], weights[row]) for row in rows_of_samples(subject)])
    one_sign = bool((base.losses >= 0).all())
    ends = interval(values, errors, sample_freedom(subject.objective), keeps_sign=one_sign)
    return {"loss": Column.of_images(subject.objective, values, errors, ends)}


def rows_of_samples(subject: Subject) -> list[np.ndarray]:
    """For every class and, last, for everything, which samples belong to it: (n,) each."""
    classes = subject.objective.classes.numpy()
    return [*(classes == c for c in range(subject.objective.num_classes)), np.ones(len(classes), dtype=bool)]


LOSS = Measure(
    "loss",
    loss,
    title="Loss",
    explained="the loss itself",
)
