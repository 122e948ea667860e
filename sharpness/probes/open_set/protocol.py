r"""The open long-tailed protocol of Liu et al. (OLTR, CVPR 2019) on scores and labels, as plain arrays.

A prediction is the class with the largest softmax probability p, or -1 (a rejection) if p is below a threshold. Known
test images have labels from 0 on, and images of the open set have the label -1. There are two versions of the F-measure
:math:`2 P R / (P + R)`:

* ``oltr-2020``, used by OLTR since January 2020: P = TP / (TP + FP), where a rejected known image is a false positive,
  so that P is the accuracy after rejection.
* ``oltr-2019``, still used by classifier-balancing and BALMS: rejected known images are not counted at all, so that F
  is larger and rejecting known images costs nothing.

TP are correctly classified known images, and FN are accepted images of the open set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from sharpness.engine.class_sums import ratio
from sharpness.errors import choose

#: Label of images of the open set, and prediction for rejected images.
REJECTED = -1
F_MEASURES = ("oltr-2020", "oltr-2019")
#: The published threshold.
THRESHOLD = 0.1
#: Number of equal-width bins of the calibration error (Guo et al., ICML 2017).
BINS = 15


def rejecting(scores: np.ndarray, predictions: np.ndarray, threshold: float) -> np.ndarray:
    """Return the predictions (n,), with -1 where the score is below the threshold."""
    return np.where(scores < threshold, REJECTED, predictions)


def f_measure(predictions: np.ndarray | Sequence[int], labels: np.ndarray | Sequence[int], kind: str) -> float:
    """Compute the F-measure of predictions with rejections, on known and open images.

    It is 0 if no known image is classified correctly; OLTR's code divides by zero if none is accepted at all.

    Args:
        predictions: (n,) predicted classes, -1 for rejected images.
        labels: (n,) labels, -1 for the open set.
        kind: one of :data:`F_MEASURES`.

    Returns:
        F, from 0 to 1.

    >>> predictions, labels = [0, 1, -1, 2, -1, 3], [0, 2, 1, -1, -1, 3]
    >>> [round(f_measure(predictions, labels, kind), 4) for kind in F_MEASURES]
    [0.5714, 0.6667]
    >>> f_measure([-1, -1], [0, 1], "oltr-2020")
    0.0
    """
    choose("F-measure", kind, F_MEASURES)
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    known = labels != REJECTED
    right = int(np.sum(known & (predictions == labels)))
    wrong = known & (predictions != labels)
    if kind == "oltr-2019":
        wrong &= predictions != REJECTED
    accepted = int(np.sum(~known & (predictions != REJECTED)))
    if not right:
        return 0.0
    precision, recall = right / (right + int(wrong.sum())), right / (right + accepted)
    return 2 * precision * recall / (precision + recall)


def auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    """The probability that a known image has a higher score than one of the open set; ties count half.

    Args:
        known: (n,) scores of known images.
        unknown: (m,) scores of the open set.

    Returns:
        The area under the receiver operating characteristic.

    >>> auroc(np.array([0.9, 0.4]), np.array([0.4, 0.1]))
    0.875
    """
    return float(scipy.stats.mannwhitneyu(known, unknown).statistic / (len(known) * len(unknown)))


def fpr_at_95_tpr(known: np.ndarray, unknown: np.ndarray) -> float:
    """The share of the open set that is accepted at the highest threshold that accepts 95 % of the known images.

    Args:
        known: (n,) scores of known images.
        unknown: (m,) scores of the open set.

    Returns:
        The false-positive rate.

    >>> fpr_at_95_tpr(np.linspace(0, 1, 21), np.array([0.01, 0.5]))
    0.5
    """
    needed = int(np.ceil(0.95 * len(known) - 1e-9))
    threshold = np.sort(known)[::-1][max(needed, 1) - 1]
    return float(np.mean(unknown >= threshold))


def calibration_error(scores: np.ndarray, right: np.ndarray, weights: np.ndarray | None = None) -> float:
    r"""Compute the expected calibration error :math:`\sum_b (A_b / A) |\mathrm{acc}_b - \mathrm{conf}_b|` in 15 bins.

    Args:
        scores: (n,) largest probabilities; bins are intervals (l, u].
        right: (n,) 1 where the prediction is correct, else 0.
        weights: (n,) weights of the images, whose sums are A; 1 by default.

    Returns:
        The error, from 0 to 1.

    >>> round(calibration_error(np.array([0.9, 0.9]), np.array([True, False])), 6)
    0.4
    """
    a = np.ones(len(scores)) if weights is None else weights
    bins = np.clip(np.ceil(scores * BINS).astype(int) - 1, 0, BINS - 1)
    return float(np.abs(np.bincount(bins, a * (right - scores), BINS)).sum() / a.sum())


@dataclass(frozen=True)
class Scored:
    """Scores and predictions of known and open images.

    Attributes:
        scores: (n,) largest softmax probabilities of known images.
        predictions: (n,) their predicted classes.
        labels: (n,) their labels.
        open_scores: (m,) largest softmax probabilities of the open set.
        open_predictions: (m,) its predicted classes.
        groups: class indices of every group.
        num_classes: C.
    """

    scores: np.ndarray
    predictions: np.ndarray
    labels: np.ndarray
    open_scores: np.ndarray
    open_predictions: np.ndarray
    groups: Mapping[str, Sequence[int]]
    num_classes: int

    @classmethod
    def of(
        cls, logits: np.ndarray, labels: np.ndarray, open_logits: np.ndarray, groups: Mapping[str, Sequence[int]]
    ) -> Scored:
        """Score logits of known images (n, C) and of the open set (m, C), given in double precision."""
        p, q = (scipy.special.softmax(u, axis=1) for u in (logits, open_logits))
        return cls(p.max(1), p.argmax(1), labels, q.max(1), q.argmax(1), groups, logits.shape[1])

    def class_accuracies(self, threshold: float = 0.0) -> np.ndarray:
        """Accuracy (C,) of the known images of every class after rejection; NaN for a class without images."""
        right = rejecting(self.scores, self.predictions, threshold) == self.labels
        n = np.bincount(self.labels, minlength=self.num_classes)
        hits = np.bincount(self.labels, right, self.num_classes)
        return ratio(hits, n)

    def at(self, threshold: float) -> dict[str, float]:
        """Accuracies after rejection (overall, balanced, of groups and of the open set), and both F-measures."""
        predictions = rejecting(self.scores, self.predictions, threshold)
        opened = rejecting(self.open_scores, self.open_predictions, threshold)
        everything = np.concatenate([predictions, opened])
        labels = np.concatenate([self.labels, np.full(len(opened), REJECTED)])
        return {
            **_accuracies(self.class_accuracies(threshold), self.groups, float(np.mean(predictions == self.labels))),
            "open_accuracy": float(np.mean(opened == REJECTED)),
            **{f"f_{kind.replace('-', '_')}": f_measure(everything, labels, kind) for kind in F_MEASURES},
        }

    def closed(self) -> dict[str, float]:
        """Accuracies without rejection, the calibration error, and how well scores separate the open set."""
        right = self.predictions == self.labels
        return {
            **_accuracies(self.class_accuracies(), self.groups, float(right.mean())),
            "calibration_error": calibration_error(self.scores, right),
            "auroc": auroc(self.scores, self.open_scores),
            "fpr_at_95_tpr": fpr_at_95_tpr(self.scores, self.open_scores),
        }


def _accuracies(classes: np.ndarray, groups: Mapping[str, Sequence[int]], overall: float) -> dict[str, float]:
    """``accuracy`` of all images, ``balanced_accuracy``, and the accuracy of every group (mean over its classes)."""
    shots = {f"accuracy_{name}": classes[list(c)] for name, c in groups.items()}
    return {
        "accuracy": overall,
        "balanced_accuracy": float(np.nanmean(classes)),
        **{name: float(np.nanmean(a)) if np.isfinite(a).any() else float("nan") for name, a in shots.items()},
    }
