"""Sanity checks of a model: accuracy, and signs of permuted labels, wrong normalisation or other training images."""

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

#: Smallest difference of accuracies that is worth a remark.
MARGIN = 0.1
#: Smallest median number of samples per class for judging the order of the classes.
ENOUGH = 8
#: Number of random predictions, for the accuracy that the best order of the classes reaches by chance.
DRAWS = 5
#: Maximum number of images per class.
LIMIT = 200
#: Accuracy on many-shot training images from which a network counts as fully trained.
FITTED = 0.97


@dataclass(frozen=True)
class Answers:
    """The predictions of a model on some samples.

    Attributes:
        confusion: (C, C) number of samples by class (rows) and prediction (columns).
        weights: (C,) weight of each class in ``accuracy``; None for its number of samples.
    """

    confusion: np.ndarray
    weights: np.ndarray | None = None

    @property
    def samples(self) -> np.ndarray:
        """Number of samples (C,) of every class."""
        return self.confusion.sum(axis=1)

    @property
    def class_accuracies(self) -> np.ndarray:
        """Accuracies (C,) of the classes; NaN for a class without samples."""
        return ratio(np.diag(self.confusion), self.samples)

    @property
    def accuracy(self) -> float:
        """Accuracy over all samples; if classes were limited, samples are weighted by the number they represent."""
        weights = self.samples if self.weights is None else self.weights
        return float(np.nansum(weights * self.class_accuracies) / weights.sum())

    @property
    def class_mean(self) -> float:
        """Mean of the accuracies of the classes that have samples."""
        return float(np.nanmean(self.class_accuracies))

    @property
    def reordered(self) -> float:
        """``class_mean`` with the model's outputs in the order that fits the classes best.

        A value far above ``class_mean`` indicates that the data and the model number the classes differently. A model
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
        """A one-line remark on a suspicious accuracy, or an empty string.

        Args:
            recorded: accuracy recorded in the file.
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
    """Mean accuracy of the classes with samples, under the best one-to-one assignment of outputs to classes."""
    samples = confusion.sum(axis=1, keepdims=True)
    shares = confusion[samples[:, 0] > 0] / samples[samples[:, 0] > 0]
    return float(shares[scipy.optimize.linear_sum_assignment(shares, maximize=True)].mean())


def answers(objective: Objective) -> Answers:
    """Compute the predictions of an objective's model on its samples, by label."""
    confusion = objective.confusion()
    return Answers(confusion, np.bincount(objective.y, objective.weights.double(), len(confusion)))


def unseen_remark(right: np.ndarray, samples: np.ndarray) -> str:
    """A one-line remark if training images of few-shot classes look unseen, or an empty string.

    A network that has memorised the training images of frequent classes has memorised those of rare classes as well:
    its accuracy on them is far above that on test images of these classes. Otherwise, it was trained on other images.
    There is no remark if the network classifies less than 97 % of the frequent training images correctly, or not
    better than test images by three standard errors. There is none either if its accuracy on the rare training images
    is above that on test images by more than two standard errors, or if, within three standard errors, it may be at
    least halfway from there to the accuracy on the frequent training images.

    Args:
        right: (2, 2) number of correct predictions on training and test images (rows) of many- and few-shot classes
            (columns).
        samples: (2, 2) number of images.

    >>> unseen_remark(np.array([[990, 40], [930, 380]]), np.array([[1000, 100], [1000, 1000]]))[:54]
    'of few-shot classes 40.0 % of the training images are '
    >>> unseen_remark(np.array([[990, 97], [930, 380]]), np.array([[1000, 100], [1000, 1000]]))
    ''
    """
    if samples.min() < 1:
        return ""
    shares = right / samples
    # Two more answers of each kind keep the errors of shares of 0 and 1 above 0.
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
    """The remark of :func:`unseen_remark` on the training images rebuilt for a foreign checkpoint.

    It is empty for other checkpoints and other data.

    Args:
        options: options of :func:`~sharpness.checkpoint_objective`.
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
