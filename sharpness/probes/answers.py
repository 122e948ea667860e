"""Whether a model gives the answers that it should, before hours are spent on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import random_table

from sharpness.objective import Objective

#: By how much accuracies must differ to be worth a remark.
MARGIN = 0.1
#: Draws of answers that know nothing, to tell how well some order of the classes fits even them.
DRAWS = 5


@dataclass(frozen=True)
class Answers:
    """What a model answers on some samples.

    Attributes:
        confusion: (C, C) samples of each class (rows) by answer (columns).
    """

    confusion: np.ndarray

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float(np.trace(self.confusion) / self.confusion.sum())

    @property
    def class_mean(self) -> float:
        """Mean of the accuracies of the classes that have samples."""
        samples = self.confusion.sum(axis=1)
        return float((np.diag(self.confusion)[samples > 0] / samples[samples > 0]).mean())

    @property
    def reordered(self) -> float:
        """:attr:`class_mean` if the model's outputs stood for the classes in the order that fits best.

        Far above :attr:`class_mean`, it says that the data number the classes differently than the model does. A model
        that gives one answer to everything gets 1 / C in any order.

        >>> swapped = Answers(np.array([[0, 9], [8, 2]]))
        >>> swapped.class_mean, swapped.reordered
        (0.1, 0.9)
        """
        return _best_order(self.confusion)

    @property
    def by_chance(self) -> float:
        """What :attr:`reordered` reaches if the same answers are dealt to the samples at random, at most."""
        dealt = random_table(self.confusion.sum(axis=1), self.confusion.sum(axis=0), seed=np.random.default_rng(0))
        return max(_best_order(table) for table in dealt.rvs(DRAWS))

    def remark(self, recorded: float | None = None) -> str:
        """What is suspicious, in one line, or nothing.

        Args:
            recorded: the accuracy that the file tells.
        """
        reordered, classes = self.reordered, len(self.confusion)
        if reordered > self.class_mean + MARGIN and reordered > self.by_chance + MARGIN:
            return (
                f"with the classes in another order {100 * reordered:.1f} % would be right: the data seem not to "
                "number them as the model does"
            )
        if recorded is not None and self.accuracy < recorded - MARGIN:
            return f"the file records {100 * recorded:.1f} %: check the data and their normalisation"
        if classes > 1 and self.class_mean < 1 / classes + min(0.5 / classes, MARGIN):
            return f"{100 * self.class_mean:.1f} % is near chance: check the data and their normalisation"
        return ""


def _best_order(confusion: np.ndarray) -> float:
    """Mean share of right answers of the classes that have samples, under the best one-to-one naming of the answers."""
    samples = confusion.sum(axis=1, keepdims=True)
    shares = confusion[samples[:, 0] > 0] / samples[samples[:, 0] > 0]
    return float(shares[linear_sum_assignment(shares, maximize=True)].mean())


def answers(objective: Objective) -> Answers:
    """The answers of an objective's model on its samples."""
    return Answers(objective.confusion())
