"""Stochastic weight averaging (Izmailov et al., UAI 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sharpness.errors import UserError


@dataclass(frozen=True)
class SWA:
    r"""The mean of the weights after each of the last epochs of a stage, with BatchNorm's statistics recomputed.

    .. code-block:: text

        for epoch e = 1, ..., E:
            train an epoch at the learning rate of sharpness.methods.schedules.Averaged
            if e > start * E:                             # the n-th such epoch, n = 0, 1, ...
                average += (w - average) / (n + 1)
        w = average
        BatchNorm's statistics = mean over one pass of training batches at w

    As published, epochs 161 to 200 of 200 are averaged, with a learning rate of 0.05 where training started at 0.1; the
    released configurations for CIFAR-10 use 0.01. The average is computed by torch's ``AveragedModel``, and BatchNorm's
    statistics, which cannot be averaged, by torch's ``update_bn``.

    Args:
        start: the fraction of a stage's epochs after which averaging begins.
        lr: the constant learning rate during averaging, which replaces that of the stage.

    >>> [e for e in range(1, 11) if SWA().averages(e, 10)]
    [9, 10]
    >>> [e for e in range(1, 51) if SWA(start=0.58).averages(e, 50)][0]
    30
    """

    paper: ClassVar[str] = (
        "Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, UAI 2018"
    )
    deviations: ClassVar[tuple[str, ...]] = (
        "SWA's learning rate is the published one for CIFAR-100, 0.05, unless lr is given; other configurations take "
        "0.01",
    )

    start: float = 0.8
    lr: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.start < 1:
            raise UserError(f"start={self.start}: SWA begins after a fraction of the epochs, from 0 to below 1")
        if not 0 < self.lr < float("inf"):
            raise UserError(f"lr={self.lr}: SWA needs a positive learning rate, usually 0.05")

    def averages(self, epoch: int, epochs: int) -> bool:
        """Return True if the weights after ``epoch`` = 1, ..., ``epochs`` are averaged."""
        return epoch > round(self.start * epochs, 9)  # the float 0.58 * 50 is a little below 29
