"""Sanity checks of a model: confusion matrix, accuracy, signs of permuted labels or wrong normalisation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy

from sharpness.engine.class_sums import ratio
from sharpness.objective import Objective

#: By how much accuracies must differ to be worth a remark.
MARGIN = 0.1
#: Median samples of a class below which the order of the classes is not judged.
ENOUGH = 8
#: Draws of random predictions, for the accuracy that the best order of the classes reaches by chance.
DRAWS = 5


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
