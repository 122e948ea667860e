"""Checks of labels ``(n,)``, and the first samples of each class."""

from __future__ import annotations

import torch
from torch import Tensor

from sharpness.errors import UserError


def check_labels(labels: Tensor, num_classes: int) -> None:
    """Raise a :class:`UserError` for the first label outside ``[0, num_classes)``.

    >>> check_labels(torch.tensor([0, 2, 1]), 3)
    """
    wrong = torch.nonzero((labels < 0) | (labels >= num_classes)).flatten()
    if len(wrong):
        index = int(wrong[0])
        raise UserError(f"label {int(labels[index])} at index {index} is outside 0..{num_classes - 1}")


def check_limit(n: int) -> None:
    """Raise a :class:`UserError` for a number of samples per class below 1."""
    if n < 1:
        raise UserError(f"samples per class must be at least 1, not {n}")


def first_of_each(labels: Tensor, n: int) -> Tensor:
    """Indices of the first ``n`` samples of each class, ascending, of labels ``(N,)``.

    Raises:
        UserError: ``n`` below 1.

    >>> first_of_each(torch.tensor([1, 0, 1, 1, 0]), 1)
    tensor([0, 1])
    """
    check_limit(n)
    order = torch.argsort(labels, stable=True)
    sizes = torch.unique_consecutive(labels[order], return_counts=True)[1]
    starts = torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
    rank = torch.arange(len(labels), device=labels.device) - starts
    return order[rank < n].sort().values
