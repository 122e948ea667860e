"""Learning-rate schedules as plain data: a factor for every epoch, scaled to the length of the run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol


class Schedule(Protocol):
    """A schedule: ``factor(epoch, epochs)`` multiplies the learning rate of epoch 1, ..., epochs."""

    def factor(self, epoch: int, epochs: int) -> float: ...


@dataclass(frozen=True)
class MultiStep:
    """Linear warm-up, then a factor after each milestone, as published for ``of`` epochs.

    The schedule is scaled to other numbers of epochs: epoch e of E has the factor of epoch e * of / E.
    The factor is 1 after warm-up, and ``factors[j]`` (not a product) for e > milestones[j].

    >>> ldam = MultiStep(milestones=(160, 180), factors=(1e-2, 1e-4))
    >>> [ldam.factor(e, 200) for e in (1, 5, 160, 161, 181)]
    [0.2, 1.0, 1.0, 0.01, 0.0001]
    """

    milestones: tuple[int, ...]
    factors: tuple[float, ...]
    warmup: int = 5
    warmup_start: float = 0.0
    of: int = 200

    def factor(self, epoch: int, epochs: int) -> float:
        position = epoch * self.of / epochs
        if position <= self.warmup:
            return self.warmup_start + (1 - self.warmup_start) * position / self.warmup
        passed = [f for m, f in zip(self.milestones, self.factors, strict=True) if position > m]
        return passed[-1] if passed else 1.0


@dataclass(frozen=True)
class Cosine:
    """``(1 + cos(pi (e - 1) / E)) / 2``: 1 in the first epoch, and 0 would follow after the last.

    >>> [round(Cosine().factor(e, 10), 3) for e in (1, 6)]
    [1.0, 0.5]
    """

    def factor(self, epoch: int, epochs: int) -> float:
        return (1 + math.cos(math.pi * (epoch - 1) / epochs)) / 2


@dataclass(frozen=True)
class CosineToZero:
    """``(1 + cos(pi e / E)) / 2``: below 1 in the first epoch, and exactly 0 in the last.

    This is the schedule of code that steps its scheduler before an epoch (classifier-balancing, BALMS).

    >>> [round(CosineToZero().factor(e, 10), 3) for e in (5, 10)]
    [0.5, 0.0]
    """

    def factor(self, epoch: int, epochs: int) -> float:
        return (1 + math.cos(math.pi * epoch / epochs)) / 2


@dataclass(frozen=True)
class WarmupCosine:
    """Linear from ``start`` to 1 over the share ``warmup`` of the epochs, then a cosine that ends at 0 after the last.

    With t = (e - 1) / E: ``start + (1 - start) t / warmup`` below ``warmup``, then
    ``(1 + cos(pi (t - warmup) / (1 - warmup))) / 2``.

    >>> [round(WarmupCosine(0.2, 0.5).factor(e, 10), 3) for e in (1, 2, 3, 7)]
    [0.5, 0.75, 1.0, 0.5]
    """

    warmup: float
    start: float = 0.0

    def factor(self, epoch: int, epochs: int) -> float:
        t = (epoch - 1) / epochs
        if t < self.warmup:
            return self.start + (1 - self.start) * t / self.warmup
        return (1 + math.cos(math.pi * (t - self.warmup) / (1 - self.warmup))) / 2


@dataclass(frozen=True)
class Constant:
    """Always 1."""

    def factor(self, epoch: int, epochs: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Averaged:
    r"""The schedule of stochastic weight averaging: first that of the stage, later a constant.

    .. math:: f(e) = f_{own}(e) \text{ for } t \le 0.5, \text{ linear from there to } f_{final} \text{ at } t = 0.9,
              \text{ then } f_{final}; \qquad t = (e - 1) / (1 + s E)

    with s the fraction of the epochs E before averaging. The schedule of the stage is used for its warm-up, but not for
    its drops, after which the weights would hardly move and there would be nothing to average.

    Args:
        own: the schedule of the stage.
        start: s.
        final: the factor during averaging.

    >>> izmailov = Averaged(Constant(), start=0.8, final=0.5)
    >>> [round(izmailov.factor(e, 200), 3) for e in (1, 81, 114, 146, 161, 200)]
    [1.0, 1.0, 0.748, 0.5, 0.5, 0.5]
    """

    own: Schedule
    start: float
    final: float

    def factor(self, epoch: int, epochs: int) -> float:
        before = 1 + self.start * epochs
        t = (epoch - 1) / before
        if t <= 0.5:
            return self.own.factor(epoch, epochs)
        last = self.own.factor(1 + math.floor(before / 2), epochs)
        return last + (self.final - last) * min((t - 0.5) / 0.4, 1.0)
