"""Confidence of a model: calibration error and margin."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sharpness.probes.measures.loss import means_over_images, rows_of_samples
from sharpness.probes.measures.measure import Measure, NoSettings, Passes, Subject
from sharpness.probes.open_set.protocol import calibration_error
from sharpness.probes.shared.column import Column, sample_freedom
from sharpness.statistics.estimate import interval

#: Number of bootstrap resamples of images for the standard error.
RESAMPLES = 200


def calibration(subject: Subject, settings: NoSettings) -> dict[str, Column]:
    r"""Compute calibration errors :math:`\sum_b (A_b / A)\, |\mathrm{acc}_b - \mathrm{conf}_b|` of every class.

    Standard errors are over resamples of images. With few images per bin, the calibration error is positive on average
    even if the model is calibrated.
    """
    base = subject.base
    confidence = torch.softmax(_logits(subject), dim=1).amax(dim=1).numpy()
    answers, weights, random = base.answers, base.rows[1], np.random.default_rng(0)
    found = np.full((2, subject.objective.num_classes + 1), np.nan)
    for row, chosen in enumerate(map(np.flatnonzero, rows_of_samples(subject))):
        if not len(chosen):
            continue
        found[0, row] = calibration_error(confidence[chosen], answers[chosen], weights[chosen])
        if len(chosen) > 1:
            # One at a time: the indices of 200 resamples of a large set would take a gigabyte.
            draws = (chosen[random.integers(0, len(chosen), len(chosen))] for _ in range(RESAMPLES))
            found[1, row] = np.std([calibration_error(confidence[i], answers[i], weights[i]) for i in draws], ddof=1)
    ends = np.clip(interval(found[0], found[1], sample_freedom(subject.objective)), 0, 1)
    return {"ece": Column.of_images(subject.objective, found[0], found[1], ends)}


def margin(subject: Subject, settings: NoSettings) -> dict[str, Column]:
    """Compute mean margins: the output of the label minus the largest other output."""
    outputs, labels = _logits(subject), subject.objective.y.cpu()
    right = outputs.gather(1, labels[:, None])[:, 0]
    others = outputs.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
    return means_over_images(subject, "margin", (right - others).numpy(), keeps_sign=False)


def _logits(subject: Subject) -> Tensor:
    """The logits (n, C) that the loss takes for all images, divided by the temperature if there is one."""
    objective = subject.objective
    # BatchNorm statistics are those of ``subject.base``: recalibrated, if the objective does so.
    with objective.at(torch.zeros(objective.num_parameters)):
        outputs = objective.outputs().double()
    return outputs if objective.temperature is None else outputs / objective.temperature.value


ECE = Measure(
    "ece", calibration, passes=lambda settings: Passes(forwards=1), title="Expected calibration error", bounds=(0, 1),
    usual=False, needs_labels=True, explained="the expected calibration error of its images, in 15 bins",
)  # fmt: skip
MARGIN = Measure(
    "margin", margin, passes=lambda settings: Passes(forwards=1), title="Margin", unit="logits", ratio=False,
    usual=False, needs_labels=True, explained="the mean margin of its images in logits",
)  # fmt: skip
