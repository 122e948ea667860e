r"""Sums of losses and of correct predictions per class, from one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sharpness.errors import UserError

PerSampleLoss = Callable[[Tensor, Tensor], Tensor]
#: Inputs, targets and weights of some samples.
WeightedBatch = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class ClassSums:
    """Weighted sums over the samples of each class, in float64, which are divided only once, at the end."""

    loss: np.ndarray  # (C,)  sum of a_i l_i
    weight: np.ndarray  # (C,)  sum of a_i
    correct: np.ndarray  # (C,)  sum of a_i over samples whose largest logit is the label's; NaN without labels
    count: np.ndarray  # (C,)  number of samples

    @classmethod
    def of(cls, rows: Tensor, classes: Tensor, num_classes: int) -> ClassSums:
        """Sum the rows (4, n) of samples by their classes (n,)."""
        sums = torch.zeros(4, num_classes, dtype=torch.float64).index_add_(1, classes.cpu(), rows)
        return ClassSums(*sums.numpy())

    @property
    def mean(self) -> float:
        """Loss over all samples."""
        return float(self.loss.sum() / self.weight.sum())

    @property
    def accuracy(self) -> float:
        """Accuracy over all samples, with the same weights as the loss."""
        return float(self.correct.sum() / self.weight.sum())

    @property
    def class_means(self) -> np.ndarray:
        """Loss (C,) of each class, NaN for a class without samples."""
        return ratio(self.loss, self.weight)

    @property
    def class_accuracies(self) -> np.ndarray:
        """Accuracy (C,) of each class, NaN for a class without samples."""
        return ratio(self.correct, self.weight)


@dataclass(frozen=True)
class SampleSums(ClassSums):
    """Sums per class, together with the contribution of every sample."""

    rows: np.ndarray  # (4, n)  a_i l_i; a_i; a_i if the prediction is correct, else 0; 1

    @classmethod
    def of(cls, rows: Tensor, classes: Tensor, num_classes: int) -> SampleSums:
        """Sum the rows (4, n) of samples by their classes (n,)."""
        return cls(**vars(ClassSums.of(rows, classes, num_classes)), rows=rows.numpy())

    @property
    def losses(self) -> np.ndarray:
        """l_i, shape (n,)."""
        return self.rows[0] / self.rows[1]

    @property
    def answers(self) -> np.ndarray:
        """1 for samples that are classified correctly, else 0, shape (n,)."""
        return self.rows[2] / self.rows[1]


def mean_error(values: np.ndarray, weights: np.ndarray) -> float:
    r"""Return the standard error of a weighted mean :math:`m = \sum_i a_i q_i / \sum_i a_i` of independent samples.

    .. math:: \mathrm{se}^2 = \frac{n}{n - 1} \frac{\sum_i a_i^2 (q_i - m)^2}{(\sum_i a_i)^2},

    which is the usual :math:`s / \sqrt{n}` if all weights are equal; NaN for fewer than two samples.

    Args:
        values: q, shape (n,).
        weights: a, shape (n,).

    >>> mean_error(np.array([1.0, 3.0]), np.ones(2))
    1.0
    """
    n = len(values)
    if n < 2:
        return float("nan")
    deviations = weights * (values - (weights * values).sum() / weights.sum())
    return float(np.sqrt(n / (n - 1) * (deviations**2).sum()) / weights.sum())


def share_error(right: np.ndarray, weights: np.ndarray) -> float:
    r"""Return the standard error of a weighted accuracy, which is positive even if all samples are correct or wrong.

    This is ``mean_error`` with one additional sample of mean weight that is half correct. If all weights are equal, it
    is half the length of the Wilson interval of one standard deviation,
    :math:`\sqrt{n p (1 - p) + 1/4} / (n + 1)`. NaN for fewer than two samples.

    Args:
        right: 1 or 0, shape (n,).
        weights: a, shape (n,).

    >>> share_error(np.ones(3), np.ones(3))
    0.125
    """
    if len(right) < 2:
        return float("nan")
    return mean_error(np.append(right, 0.5), np.append(weights, weights.mean()))


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    r"""Return ``-log softmax(outputs)_target``, shape (n,), or :math:`-\sum_c q_c \log p_c` for probabilities q.

    Always computed in float64: the gradient of a confidently classified sample is a probability minus 1, which rounds
    to zero in float32, together with the curvature.

    Args:
        outputs: logits (n, C).
        targets: labels (n,), or class probabilities (n, C).
    """
    probabilities = targets.is_floating_point()
    return F.cross_entropy(outputs.double(), targets.double() if probabilities else targets, reduction="none")


def ratio(sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return ``sums / weights``, with NaN where the weight is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(weights > 0, sums / weights, np.nan)


@dataclass(frozen=True)
class Scoring:
    """Computation of the sums per class from the outputs of a model.

    Attributes:
        loss: function from outputs and targets to losses (n,).
        classes: (N,) classes of all samples.
        num_classes: C.
        answers: width of the logits, the largest of which is the prediction; None if targets are not labels.
    """

    loss: PerSampleLoss
    classes: Tensor
    num_classes: int
    answers: int | None

    def rows(self, outputs: Tensor, y: Tensor, a: Tensor) -> Tensor:
        """Return the rows (4, n) of some samples, see :func:`sample_rows`."""
        return sample_rows(outputs, y, a, self.loss, self.answers)

    def sums(self, rows: Iterable[Tensor]) -> ClassSums:
        """Sum the rows of all batches, in the order of the samples."""
        found = list(rows)
        total = torch.cat(found, dim=1).cpu() if found else torch.zeros(4, 0, dtype=torch.float64)
        return ClassSums.of(total, self.classes, self.num_classes)


@torch.no_grad()
def class_sums(
    forward: Callable[[Tensor], Tensor], batches: Iterable[WeightedBatch], scoring: Scoring
) -> ClassSums:  # fmt: skip
    """Sum ``loss(forward(x), y)`` per class over all batches.

    Args:
        forward: function from inputs (n, ...) to outputs, usually logits (n, C).
        batches: batches of all samples, in order.
        scoring: computation of the sums.
    """
    return scoring.sums(scoring.rows(forward(x), y, a) for x, y, a in batches)


def sample_rows(outputs: Tensor, y: Tensor, a: Tensor, loss: PerSampleLoss, answers: int | None) -> Tensor:
    """Return the contributions of the samples of a batch to ``ClassSums``, (4, n), in float64.

    They stay on the device of the outputs, because a copy to the CPU would wait for the GPU after every batch.

    Raises:
        UserError: the loss does not return one value per sample.
    """
    values = require_one_each(loss(outputs, y), outputs, y)
    if answers is not None and outputs.ndim == 2 and outputs.shape[1] == answers:
        right = (outputs.argmax(1) == y).double()
    else:
        right = torch.full_like(a, torch.nan, dtype=torch.float64)
    a = a.double()
    return torch.stack([a * values.double(), a, a * right, torch.ones_like(a)])


def require_one_each(values: Tensor, outputs: Tensor, y: Tensor) -> Tensor:
    """Return the losses of some samples, after checking that there is one for each.

    Raises:
        UserError: there is not one for each; the message says what to change.
    """
    n = len(y)
    if isinstance(values, Tensor) and values.shape == (n,):
        return values
    if not isinstance(values, Tensor):
        raise UserError(f"the loss returned a {type(values).__name__}: it must return a tensor of shape (n,)")
    remedy = "with torch's losses pass reduction='none'"
    if values.ndim > 1 and len(values) == n:
        remedy += ", and average what is left of a sample, .flatten(1).mean(1)"
        if outputs.shape != y.shape:
            remedy += (
                f"; outputs are {tuple(outputs.shape)} and targets {tuple(y.shape)}: if they should match, squeeze one"
            )
    if values.ndim == 1 and len(values) > n and len(values) % n == 0:
        remedy = "average over what belongs to a sample, .view(len(t), -1).mean(1)"
    raise UserError(
        f"the loss returned shape {tuple(values.shape)} for {n} samples: it must return one value per sample, "
        f"shape ({n},); {remedy}"
    )
