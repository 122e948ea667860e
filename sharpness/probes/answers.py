"""Whether a model gives the answers that it should, before hours are spent on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from sharpness.objective import Objective

#: By how much another order of the classes must be better to be worth a remark.
MARGIN = 0.1


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
        """Share of right answers if the model's outputs stood for the classes in the best order.

        Far above :attr:`accuracy`, it says that the data number the classes differently than the model does.

        >>> swapped = Answers(np.array([[0, 9], [8, 1]]))
        >>> round(swapped.accuracy, 3), round(swapped.reordered, 3)
        (0.056, 0.944)
        """
        rows, columns = linear_sum_assignment(self.confusion, maximize=True)
        return float(self.confusion[rows, columns].sum() / self.confusion.sum())

    def remark(self, recorded: float | None = None) -> str:
        """What is suspicious, in one line, or nothing.

        Args:
            recorded: the accuracy that the file tells.
        """
        if self.reordered > self.accuracy + MARGIN:
            return (
                f"with the classes in another order {100 * self.reordered:.1f} % would be right: the data do not "
                "number them as the model does"
            )
        if recorded is not None and self.accuracy < recorded - MARGIN:
            return f"the file records {100 * recorded:.1f} %: check the data, their normalisation and the head's scale"
        if self.class_mean < 1.5 / len(self.confusion):
            return f"{100 * self.class_mean:.1f} % is near chance: check the data and their normalisation"
        return ""


def answers(objective: Objective) -> Answers:
    """The answers of an objective's model on its samples."""
    return Answers(objective.confusion())
