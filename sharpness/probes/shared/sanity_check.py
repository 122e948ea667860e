"""Sanity checks of a model: accuracy, signs of permuted labels, of wrong normalisation, of training images not seen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

from sharpness.checkpoints import Checkpoint
from sharpness.engine.class_sums import ratio
from sharpness.objective import Objective
from sharpness.probes.shared.as_objective import checkpoint_objective

#: By how much accuracies must differ to be worth a remark.
MARGIN = 0.1
#: Median samples of a class below which the order of the classes is not judged.
ENOUGH = 8
#: Draws of random predictions, for the accuracy that the best order of the classes reaches by chance.
DRAWS = 5
#: Largest number of images of each class.
LIMIT = 200
#: Accuracy on many-shot training images of a network that was trained to the end.
FITTED = 0.97


@dataclass(frozen=True)
class Answers:
    """The predictions of a model on some samples.

    Attributes:
        confusion: (C, C) samples of each class (rows) by prediction (columns).
        weights: (C,) weight of each label in ``accuracy``; its number of samples if None.
    """

    confusion: np.ndarray
    weights: np.ndarray | None = None

    @property
    def samples(self) -> np.ndarray:
        """Samples (C,) of every class."""
        return self.confusion.sum(axis=1)

    @property
    def class_accuracies(self) -> np.ndarray:
        """Accuracies (C,) of the classes; NaN for a class without samples."""
        return ratio(np.diag(self.confusion), self.samples)

    @property
    def accuracy(self) -> float:
        """Accuracy over all samples; where classes were limited, every sample has the weight of those it represents."""
        weights = self.samples if self.weights is None else self.weights
        return float(np.nansum(weights * self.class_accuracies) / weights.sum())

    @property
    def class_mean(self) -> float:
        """Mean of the accuracies of the classes that have samples."""
        return float(np.nanmean(self.class_accuracies))

    @property
    def reordered(self) -> float:
        """``class_mean`` under the order of the model's outputs that fits the classes best.

        Far above ``class_mean``, it says that the data number the classes differently than the model does. A model
        with a constant prediction gets 1 / C in any order.

        >>> swapped = Answers(np.array([[0, 9], [8, 2]]))
        >>> swapped.class_mean, swapped.reordered
        (0.1, 0.9)
        """
        return _best_order(self.confusion)

    @property
    def by_chance(self) -> float:
        """The largest ``reordered`` of a few random assignments of the same predictions to the samples."""
        dealt = scipy.stats.random_table(
            self.confusion.sum(axis=1), self.confusion.sum(axis=0), seed=np.random.default_rng(0)
        )
        return max(_best_order(table) for table in dealt.rvs(DRAWS))

    def remark(self, recorded: float | None = None) -> str:
        """A remark on a suspicious accuracy in one line, or an empty string.

        Args:
            recorded: the accuracy in the file.
        """
        reordered, classes = self.reordered, len(self.confusion)
        enough = np.median(self.samples[self.samples > 0]) >= ENOUGH
        if enough and reordered > self.class_mean + MARGIN and reordered > self.by_chance + MARGIN:
            return (
                f"with the classes in another order {100 * reordered:.1f} % would be right: check which numbers the "
                "classes had in training, and the normalisation, which can mix classes up as well"
            )
        remedy = "check the data, their normalisation and the order of the classes"
        if recorded is not None and self.accuracy < recorded - MARGIN:
            return f"the file records {100 * recorded:.1f} %: {remedy}"
        if classes > 1 and self.class_mean < 1 / classes + min(0.5 / classes, MARGIN):
            return f"{100 * self.class_mean:.1f} % is near chance: {remedy}"
        return ""


def _best_order(confusion: np.ndarray) -> float:
    """Mean accuracy of the classes that have samples, under the best one-to-one assignment of outputs to classes."""
    samples = confusion.sum(axis=1, keepdims=True)
    shares = confusion[samples[:, 0] > 0] / samples[samples[:, 0] > 0]
    return float(shares[scipy.optimize.linear_sum_assignment(shares, maximize=True)].mean())


def answers(objective: Objective) -> Answers:
    """Compute the predictions of an objective's model on its samples, by label."""
    confusion = objective.confusion()
    return Answers(confusion, np.bincount(objective.y, objective.weights.double(), len(confusion)))


def unseen_remark(right: np.ndarray, samples: np.ndarray) -> str:
    """A remark on training images of few-shot classes that look unseen, in one line, or an empty string.

    A network that has memorised its frequent training images has memorised the rare ones even more: its accuracy on
    them is far above that on test images of their classes. Where it is not, the network saw others. No remark is made
    on a network that does not classify 97 % of the frequent ones correctly, and these better than test images by three
    standard errors; nor where the accuracy on the rare ones is above that on test images by two, or may be, within
    three, more than halfway from that to the accuracy on the frequent ones.

    Args:
        right: (2, 2) correct predictions, on training and on test images (rows), of many- and of few-shot classes.
        samples: (2, 2) images.

    >>> unseen_remark(np.array([[990, 40], [930, 380]]), np.array([[1000, 100], [1000, 1000]]))[:54]
    'of few-shot classes 40.0 % of the training images are '
    >>> unseen_remark(np.array([[990, 97], [930, 380]]), np.array([[1000, 100], [1000, 1000]]))
    ''
    """
    if samples.min() < 1:
        return ""
    shares = right / samples
    # With two more answers of each kind, which keeps the error of a share of 0 or 1 above 0.
    centre = (right + 2) / (samples + 4)
    variances = centre * (1 - centre) / (samples + 4)
    errors = np.sqrt(variances.sum(axis=0))
    many, few = shares[0] - shares[1]
    fitted = shares[0, 0] >= FITTED and many > 3 * errors[0]
    halfway = (shares[1, 1] + shares[0, 0]) / 2
    if not fitted or few > 2 * errors[1] or shares[0, 1] + 3 * math.sqrt(variances[0, 1]) >= halfway:
        return ""
    return (
        f"of few-shot classes {100 * shares[0, 1]:.1f} % of the training images are right, as of test images "
        f"({100 * shares[1, 1]:.1f} %), of many-shot ones {100 * shares[0, 0]:.1f} % ({100 * shares[1, 0]:.1f} %): the "
        "network saw other images of them; check the files, their order, and --subset"
    )


def unseen(checkpoint: Checkpoint, **options: Any) -> str:
    """That remark on a foreign checkpoint, on the training images that are rebuilt for it; nothing of other data.

    Args:
        options: of :func:`~sharpness.checkpoint_objective`.
    """
    named = isinstance(options.get("data"), str) and options.get("split", "train") == "train"
    if not checkpoint.is_foreign or not named:
        return ""
    limit = min(options.get("limit_per_class") or LIMIT, LIMIT)
    found = []
    for split in ("train", "test"):
        objective = checkpoint_objective(
            checkpoint, **{**options, "split": split, "loss": "ce", "limit_per_class": limit}
        )
        groups = [list(objective.groups.get(name, ())) for name in ("many", "few")]
        if not all(groups):
            return ""
        confusion = answers(objective).confusion
        found.append([(np.diag(confusion)[g].sum(), confusion[g].sum()) for g in groups])
    right, samples = np.moveaxis(np.array(found), 2, 0)
    return unseen_remark(right, samples)
