"""Confidence of a model beside its sharpness: calibration error and margin."""

from __future__ import annotations

import numpy as np
import torch

from sharpness.probes.measures.loss import means_over_images, rows_of_samples
from sharpness.probes.measures.measure import Measure, NoSettings, Passes, Subject
from sharpness.probes.shared.column import Column, sample_freedom
from sharpness.statistics import interval

#: Bins of equal width (Guo et al., ICML 2017), and resamples of images for the standard error.
BINS, RESAMPLES = 15, 200


def calibration(subject: Subject, settings: NoSettings) -> dict[str, Column]:
    r"""Expected calibration errors :math:`\sum_b (A_b / A)\, |\mathrm{acc}_b - \mathrm{conf}_b|` of every class.

    Their standard errors are over resamples of images. With few images in a bin the error is positive on average even
    where the model is calibrated.
    """
    base, outputs = subject.base, subject.objective.outputs()
    confidence = torch.softmax(outputs.double(), dim=1).amax(dim=1).numpy()
    random = np.random.default_rng(0)
    found = np.full((2, subject.objective.num_classes + 1), np.nan)
    for row, chosen in enumerate(rows_of_samples(subject)):
        if chosen.any():
            gaps, weights = confidence[chosen] - base.answers[chosen], base.rows[1][chosen]
            bins = np.minimum((confidence[chosen] * BINS).astype(int), BINS - 1)
            found[0, row] = _gap(gaps, weights, bins)
            n = len(gaps)
            drawn = [random.integers(0, n, n) for _ in range(RESAMPLES)] if n > 1 else []
            resampled = [_gap(gaps[i], weights[i], bins[i]) for i in drawn]
            found[1, row] = np.std(resampled, ddof=1) if resampled else np.nan
    ends = np.clip(interval(found[0], found[1], sample_freedom(subject.objective)), 0, 1)
    return {"ece": Column.of_images(subject.objective, found[0], found[1], ends)}


def margin(subject: Subject, settings: NoSettings) -> dict[str, Column]:
    """Mean margins: the output of the label minus the largest other output."""
    outputs, labels = subject.objective.outputs().double(), subject.objective.y.cpu()
    right = outputs.gather(1, labels[:, None])[:, 0]
    others = outputs.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
    return means_over_images(subject, "margin", (right - others).numpy(), keeps_sign=False)


def _gap(gaps: np.ndarray, weights: np.ndarray, bins: np.ndarray) -> float:
    """The calibration error of some images, from their confidences minus answers."""
    return float(np.abs(np.bincount(bins, weights * gaps, BINS)).sum() / weights.sum())


ECE = Measure(
    "ece", calibration, passes=lambda settings: Passes(forwards=1), title="Expected calibration error", bounds=(0, 1),
    usual=False, needs_labels=True, explained="the expected calibration error of its images, in 15 bins",
)  # fmt: skip
MARGIN = Measure(
    "margin", margin, passes=lambda settings: Passes(forwards=1), title="Margin", unit="logits", ratio=False,
    usual=False, needs_labels=True, explained="the mean margin of its images in logits",
)  # fmt: skip
