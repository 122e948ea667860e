"""The accuracy, if targets are labels."""

from __future__ import annotations

import numpy as np

from sharpness.engine.class_sums import share_error
from sharpness.probes.measures.loss import rows_of_samples
from sharpness.probes.measures.measure import Measure, NoSettings, Subject
from sharpness.probes.shared.column import Column
from sharpness.statistics.estimate import effective_samples, wilson


def accuracy(subject: Subject, settings: NoSettings) -> dict[str, Column]:
    """Compute accuracies, weighted like losses, with Wilson intervals."""
    base, rows = subject.base, rows_of_samples(subject)
    values, weights = np.append(base.class_accuracies, base.accuracy), base.rows[1]
    errors = np.array([share_error(base.answers[row], weights[row]) for row in rows])
    ends = wilson(values, [effective_samples(weights[row]) for row in rows])
    return {"accuracy": Column.of_images(subject.objective, values, errors, ends)}


ACCURACY = Measure(
    "accuracy",
    accuracy,
    title="Accuracy",
    bounds=(0, 1),
    ratio=False,
    needs_labels=True,
    explained="the share of correct predictions",
)
