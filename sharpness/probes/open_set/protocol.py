r"""The open long-tailed protocol of Liu et al. (OLTR, CVPR 2019) on scores and labels, as plain arrays.

A prediction is the class of the largest softmax probability p, or -1, a rejection, where p is below a threshold. Test
images have labels from 0 on, those of the open set -1. Of the F-measure :math:`2 P R / (P + R)` there are two versions:

* ``oltr-2020``, OLTR's own since January 2020: P = TP / (TP + FP), where a known image that is rejected is a false
  positive, so that P is the accuracy after rejection,
* ``oltr-2019``, still in classifier-balancing and BALMS: a known image that is rejected counts nowhere, which makes F
  larger, and rejecting known images free.

TP are known images that are classified correctly, FN those of the open set that are accepted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sharpness.errors import choose

#: The label of images of the open set, and the prediction that rejects an image.
REJECTED = -1
F_MEASURES = ("oltr-2020", "oltr-2019")
#: The published threshold.
THRESHOLD = 0.1
#: Bins of the calibration error.
BINS = 15


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities (n, C) of logits (n, C), in double precision."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    e = np.exp(shifted)
    found: np.ndarray = e / e.sum(axis=1, keepdims=True)
    return found


def rejecting(scores: np.ndarray, predictions: np.ndarray, threshold: float) -> np.ndarray:
    """Predictions (n,) with -1 where the score is below the threshold."""
    return np.where(scores < threshold, REJECTED, predictions)


def f_measure(predictions: np.ndarray | Sequence[int], labels: np.ndarray | Sequence[int], kind: str) -> float:
    """The F-measure of predictions, with rejections, on known and open images.

    Where no known image is accepted and right it is 0; OLTR's code divides by zero if none is accepted at all.

    Args:
        predictions: (n,), -1 for rejected images.
        labels: (n,), -1 for the open set.
        kind: a name of :data:`F_MEASURES`.

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
    both = np.concatenate([known, unknown])
    values, inverse, sizes = np.unique(both, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(sizes) - (sizes - 1) / 2)[inverse]
    n, m = len(known), len(unknown)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def fpr_at_tpr(known: np.ndarray, unknown: np.ndarray, tpr: float = 0.95) -> float:
    """The share of the open set that is accepted at the highest threshold that accepts ``tpr`` of the known images.

    Args:
        known: (n,) scores of known images.
        unknown: (m,) scores of the open set.
        tpr: share of the known images.

    Returns:
        The false-positive rate.

    >>> fpr_at_tpr(np.linspace(0, 1, 21), np.array([0.01, 0.5]))
    0.5
    """
    needed = int(np.ceil(tpr * len(known) - 1e-9))
    threshold = np.sort(known)[::-1][max(needed, 1) - 1]
    return float(np.mean(unknown >= threshold))


def calibration_error(scores: np.ndarray, right: np.ndarray, bins: int = BINS) -> float:
    r"""The expected calibration error :math:`\sum_b (n_b / n) |\mathrm{acc}_b - \mathrm{conf}_b|` of equal bins.

    Args:
        scores: (n,) largest probabilities, each in a bin (l, u].
        right: (n,) whether the prediction is right.
        bins: their number.

    Returns:
        The error, from 0 to 1.

    >>> round(calibration_error(np.array([0.9, 0.9]), np.array([True, False])), 6)
    0.4
    """
    index = np.clip(np.ceil(scores * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.zeros(bins)
    np.add.at(gaps, index, right.astype(float) - scores)
    return float(np.abs(gaps).sum() / len(scores))


@dataclass(frozen=True)
class Scored:
    """Scores and predictions of known and open images.

    Attributes:
        scores: (n,) largest softmax probability of known images.
        predictions: (n,)
        labels: (n,)
        open_scores: (m,) of the open set.
        open_predictions: (m,)
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
        """Score logits (n, C) of known images and (m, C) of the open set."""
        p, q = softmax(logits), softmax(open_logits)
        return cls(p.max(1), p.argmax(1), labels, q.max(1), q.argmax(1), groups, logits.shape[1])

    def class_accuracies(self, threshold: float = 0.0) -> np.ndarray:
        """Accuracy (C,) of the known images of every class after rejection; NaN for a class without any."""
        right = rejecting(self.scores, self.predictions, threshold) == self.labels
        n = np.bincount(self.labels, minlength=self.num_classes)
        hits = np.bincount(self.labels, right, self.num_classes)
        return np.divide(hits, n, out=np.full(self.num_classes, np.nan), where=n > 0)

    def at(self, threshold: float) -> dict[str, float]:
        """Accuracies after rejection, of all, of the mean class, of groups and of the open set, and both F."""
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
        """Accuracies without rejection, the calibration error, and how well scores tell the open set apart."""
        right = self.predictions == self.labels
        return {
            **_accuracies(self.class_accuracies(), self.groups, float(right.mean())),
            "calibration_error": calibration_error(self.scores, right),
            "auroc": auroc(self.scores, self.open_scores),
            "fpr_at_95_tpr": fpr_at_tpr(self.scores, self.open_scores),
        }


def _accuracies(classes: np.ndarray, groups: Mapping[str, Sequence[int]], overall: float) -> dict[str, float]:
    """``accuracy`` of all images, ``balanced_accuracy``, and that of every group: the mean over its classes."""
    shots = {f"accuracy_{name}": classes[list(c)] for name, c in groups.items()}
    return {
        "accuracy": overall,
        "balanced_accuracy": float(np.nanmean(classes)),
        **{name: float(np.nanmean(a)) if np.isfinite(a).any() else float("nan") for name, a in shots.items()},
    }
