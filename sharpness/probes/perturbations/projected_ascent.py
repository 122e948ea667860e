r"""Projected ascent of one loss inside a ball of perturbations.

The ball contains the displacements :math:`\epsilon = T u` with :math:`\|u\|_p \le \rho`, p = 2 or infinity. T is the
identity or, for adaptive sharpness, :math:`T_w = \operatorname{diag}(|w_1|, \dots, |w_k|)` at the centre w (Kwon et
al., ICML 2021): the ball is then :math:`\|T_w^{-1} \epsilon\|_p \le \rho` on the nonzero weights, and weights that
are zero do not move.

.. code-block:: text

    u = 0, length = rho
    in every step
        g = T gradient L(w + T u)                       unless u has not moved
        v = project(u + length * steepest(g))           steepest: g / |g|, or sign(g) for p = infinity
        L(w + T v) > L(w + T u)  ?  u = v  :  length = length / 2

The first step is the point that SAM evaluates (Foret et al., ICLR 2021). The loss never falls, and more steps continue
from where fewer steps ended, so they never find a smaller loss. The best loss is a lower bound of the maximum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from sharpness.engine.class_sums import ClassSums, SampleSums
from sharpness.objective import Objective
from sharpness.probes.directions.gaussian import gaussian

S = TypeVar("S", bound=ClassSums)
NORMS = ("l2", "linf")
#: If the gradient at the centre is zero, the ascent starts in a random direction at this fraction of the radius.
START = 0.1


@dataclass(frozen=True)
class Ball:
    """The displacements ``T u`` with ``|u| <= rho``.

    Attributes:
        scale: the diagonal of T, (k,), or None for the identity.
    """

    rho: float
    norm: str = "l2"
    scale: Tensor | None = None

    def displacement(self, u: Tensor) -> Tensor:
        return u if self.scale is None else self.scale * u

    def steepest(self, gradient: Tensor) -> Tensor | None:
        """The u of norm 1 that raises the loss most to first order; None if the gradient is 0.

        >>> Ball(0.1).steepest(torch.tensor([3.0, -4.0])).tolist()
        [0.6000000238418579, -0.800000011920929]
        >>> Ball(0.1, "linf").steepest(torch.tensor([3.0, -4.0])).tolist()
        [1.0, -1.0]
        """
        pulled = self.displacement(gradient).double()
        length = pulled.norm()
        if not bool(length > 0):
            return None
        return (pulled.sign() if self.norm == "linf" else pulled / length).to(gradient.dtype)

    def project(self, u: Tensor) -> Tensor:
        """Return the nearest point of the ball."""
        if self.norm == "linf":
            return u.clamp(-self.rho, self.rho)
        length = float(u.double().norm())
        return u if length <= self.rho else u * (self.rho / length)


def ascend(
    evaluate: Callable[[Tensor], S],
    gradient: Callable[[Tensor], Tensor],
    center: S,
    slope: Tensor,
    ball: Ball,
    steps: int,
    noise: Callable[[], Tensor],
) -> tuple[S, int]:
    """Climb from the centre of a ball by projected gradient ascent with backtracking.

    Args:
        evaluate: function from a displacement (k,) to the loss.
        gradient: function from a displacement (k,) to the gradient (k,).
        center: the loss at the centre.
        slope: the gradient at the centre, (k,).
        steps: maximum number of evaluations, each preceded by a gradient if the point has moved.
        noise: function that draws a random vector (k,), to leave a centre without a gradient. It is only called if
            there are several steps.

    Returns:
        The sums at the best point, and the number of gradients that were computed.
    """
    u, here, best = torch.zeros_like(slope), center, center
    length, taken = ball.rho, 0
    direction = ball.steepest(slope)
    for step in range(steps):
        if direction is None:
            start = ball.steepest(noise()) if step == 0 and steps > 1 else None
            if start is None:
                break
            u = START * ball.rho * start
            here = evaluate(ball.displacement(u))
            best = max(best, here, key=_mean)
        else:
            point = ball.project(u + length * direction)
            there = evaluate(ball.displacement(point))
            if not there.mean > here.mean:
                # The point and its gradient stay the same: trying half the step takes one more evaluation.
                length /= 2
                continue
            u, here = point, there
            best = max(best, here, key=_mean)
        if step + 1 < steps:
            direction = ball.steepest(gradient(ball.displacement(u)))
            taken += 1
    return best, taken


def _mean(sums: ClassSums) -> float:
    return sums.mean


def climb(
    whole: Objective,
    part: Objective,
    center: SampleSums,
    slope: Tensor,
    ball: Ball,
    steps: int,
    seed: int,
    callback: Callable[[int], object] = lambda gradients: None,
) -> tuple[SampleSums, int]:
    """Climb on the loss of some samples of an objective, see :func:`ascend`.

    Args:
        whole: the objective whose weights are moved; recalibrated BatchNorm statistics are those of all its samples.
        part: the objective of some of its samples.
        seed: seed of the starting point if the gradient at the centre is zero.
        callback: called with 1 before every gradient.

    Returns:
        The result of :func:`ascend`.
    """

    def evaluate(displacement: Tensor) -> SampleSums:
        with whole.at(displacement):
            return part.evaluate_samples()

    def gradient(displacement: Tensor) -> Tensor:
        callback(1)
        with whole.at(displacement):
            return part.gradient()

    return ascend(evaluate, gradient, center, slope, ball, steps, lambda: gaussian(whole, 0, seed, None))
