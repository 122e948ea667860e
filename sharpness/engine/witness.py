r"""Verification of first and second derivatives by finite differences, which are never used as products themselves.

Along a direction v, with a step h so small that the third derivative, and mostly also kinks, do not matter in float64:

.. math::

    v' \nabla f \approx \frac{f(w + hv) - f(w - hv)}{2h}, \qquad
    \nabla^2 f \, v \approx \frac{\nabla f(w + hv) - \nabla f(w - hv)}{2h}.

If a derivative differs from these, or if the two sides of w differ from each other, the differences are also taken at
h / 2. If the two steps or the two sides disagree, there is a kink between the points (at w itself if on one side only)
and therefore no verdict: another direction and another step are tried. There is no verdict on second derivatives
either if the gradient is not the slope of f at this step: straight-through estimators, detached values, and functions
that round to fewer digits than float64 has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from sharpness.engine.double_backward import flat, hvp_sum, split, twice_differentiable

#: Steps relative to the size of every tensor. A step of 1e-7 crosses a kink in one of ten million units, and a few
#: images have that many units in a convolutional network; therefore smaller steps come first.
STEPS = (1e-8, 1e-9, 1e-7, 1e-8, 1e-9)
#: Number of looks that must agree on a verdict.
LOOKS = 2
#: Relative errors of slopes, products and symmetry that cannot be rounding.
SLOPE, PRODUCT, SKEW = 1e-4, 1e-4, 1e-3
EPS = torch.finfo(torch.float64).eps

Value = Callable[[Sequence[Tensor]], Tensor]
Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Verdict:
    """The result of an examination; None where there is no verdict.

    Attributes:
        gradient: whether the gradient is the derivative of the function.
        product: whether products with the Hessian are derivatives of the gradient.
        symmetric: whether ``a'Hb = b'Ha``.
        error: relative error of the worst product.
    """

    gradient: bool | None
    product: bool | None
    symmetric: bool
    error: float = 0.0


@dataclass
class Look:
    """Differences along one direction, in coordinates relative to the size of each tensor, for equal importance.

    Attributes:
        direction: the direction v.
        slope: the slope of the function by differences.
        slope_right: whether the gradient agrees with the slope; None without a verdict.
        difference: the difference of gradients.
        doubt: uncertainty of every entry of ``difference``.
        noise: bound on the rounding error of ``difference``.
        halved: function that computes slope and difference at half the step; None once ``doubt`` includes them.
    """

    direction: Tensor
    slope: float
    slope_right: bool | None
    difference: Tensor
    doubt: Tensor
    noise: float
    halved: Callable[[], tuple[float, Tensor]] | None


class Witness:
    """Examine the derivatives of a function of float64 tensors at a point.

    Args:
        value: differentiable function from tensors to a scalar.
        at: the point.
        magnitude: sum of the absolute values of the scalar's terms, which bounds its rounding error.
    """

    def __init__(self, value: Value, at: Sequence[Tensor], magnitude: float) -> None:
        self.value, self.at, self.magnitude = value, [t.detach() for t in at], magnitude
        sizes = [float(t.square().mean().sqrt()) if t.numel() else 0.0 for t in self.at]
        usual = max(sizes, default=0.0) or 1.0
        self.scale = flat([torch.full_like(t, s or usual) for t, s in zip(self.at, sizes, strict=True)])
        self.f, self.gradient = self._at(torch.zeros_like(self.scale))
        self._looks: list[Look] = []

    @property
    def finite(self) -> bool:
        return bool(self.gradient.isfinite().all()) and abs(self.f) < float("inf")

    def verdict(self, product: Product | None, first: Tensor | None = None) -> Verdict:
        """Return the verdict on the gradient and on a product.

        Args:
            product: function from a flat vector to the product with the Hessian; None for the gradient alone.
            first: the product with :attr:`first_vector`, if it is known.
        """
        if not self.finite or not self.scale.numel():
            return Verdict(None, None, True)
        slopes: list[bool] = []
        right: list[bool] = []
        made: list[tuple[Tensor, Tensor]] = []
        error = 0.0
        for i in range(len(STEPS)):
            look = self.look(i)
            # Products are only compared if the slope is right, but two are always made, because the test of symmetry
            # needs no differences.
            if look.slope_right is not None:
                slopes.append(look.slope_right)
            if product is not None and (slopes.count(False) < LOOKS or len(made) < 2):
                vector = self.scale * look.direction
                found = self.scale * (first if i == 0 and first is not None else product(vector))
                made.append((look.direction, found))
                if look.slope_right:
                    off, judged = self._compare(look, found)
                    if judged is not None:
                        right.append(judged)
                    error = error if judged is not False else max(error, off)
            enough = max(right.count(True), right.count(False)) >= LOOKS or product is None
            if max(slopes.count(True), slopes.count(False)) >= LOOKS and (enough or slopes.count(False) >= LOOKS):
                break
        return Verdict(_agreed(slopes), _agreed(right), _symmetric(made), error)

    @property
    def first_vector(self) -> Tensor:
        """The vector of the first product in a verdict."""
        return self.scale * self._random(0)

    def look(self, i: int) -> Look:
        """Return look number i. Directions are random, every second one turned towards the curvature found before."""
        while len(self._looks) <= i:
            self._looks.append(self._look(len(self._looks)))
        return self._looks[i]

    def _look(self, i: int) -> Look:
        z = self._random(i)
        if i % 2 and bool(self._looks[-1].difference.isfinite().all()):
            bent = self._looks[-1].difference
            z = z + bent * (z.norm() / bent.norm().clamp_min(1e-300))
        h = STEPS[i] * len(z) ** 0.5 / max(float(z.norm()), 1e-300)
        (above, up), (below, down) = self._at(h * self.scale * z), self._at(-h * self.scale * z)
        expected = self.scale * z * self.gradient
        slope, difference = (above - below) / (2 * h), self.scale * (up - down) / (2 * h)
        doubt = (self.scale * (up + down - 2 * self.gradient) / h).abs()
        rounding = 16 * EPS * float((self.scale * self.gradient).norm()) / h

        def halved() -> tuple[float, Tensor]:
            (near, up), (nearby, down) = self._at(h / 2 * self.scale * z), self._at(-h / 2 * self.scale * z)
            return (near - nearby) / h, self.scale * (up - down) / h

        look = Look(z, slope, None, difference, doubt, rounding, halved)
        noise = 256 * EPS * max(abs(self.f), self.magnitude) / h
        within = SLOPE * max(abs(slope), float(expected.norm())) + noise
        apart = abs((above - self.f) - (self.f - below)) / h
        if apart <= within and noise <= 1e-2 * max(abs(slope), float(expected.norm())):
            look.slope_right = abs(slope - float(expected.sum())) <= within
            if not look.slope_right and abs(slope - self._halve(look)) > within:
                look.slope_right = None
        return look

    def _random(self, i: int) -> Tensor:
        generator = torch.Generator().manual_seed(i)
        return torch.randn(len(self.scale), generator=generator, dtype=torch.float64).to(self.scale.device)

    def _halve(self, look: Look) -> float:
        """Include the difference at half the step in the doubt, and return the slope there."""
        assert look.halved is not None
        slope, difference = look.halved()
        look.halved = None
        look.doubt = torch.maximum(look.doubt, (look.difference - difference).abs())
        return slope

    def _compare(self, look: Look, found: Tensor) -> tuple[float, bool | None]:
        """Return the relative error of a product in its worst tensor, and whether it is right; None if in doubt."""
        worst = self._off(look, found)
        if worst and look.halved is not None:
            self._halve(look)
            worst = self._off(look, found)
        if worst:
            return worst, False
        return 0.0, True if float(look.doubt.norm()) <= 1e-3 * float(look.difference.norm()) + look.noise else None

    def _off(self, look: Look, found: Tensor) -> float:
        """Return the relative error of a product in its worst tensor; 0 if no tensor differs by more than the doubt."""
        doubt, worst = float(look.doubt.norm()), 0.0
        for d, p, u in zip(*(split(t, self.at) for t in (look.difference, found, look.doubt)), strict=True):
            off, size = float((d - p).norm()), max(float(d.norm()), float(p.norm()))
            share = (d.numel() / len(found)) ** 0.5
            if off > PRODUCT * size + 20 * (float(u.norm()) + share * doubt) + look.noise:
                worst = max(worst, off / max(size, 1e-300))
        return worst

    def _at(self, displacement: Tensor) -> tuple[float, Tensor]:
        moved = [t + d for t, d in zip(self.at, split(displacement, self.at), strict=True)]
        leaves = [t.detach().requires_grad_() for t in moved]
        with torch.enable_grad(), twice_differentiable():
            value = self.value(leaves)
            if not value.requires_grad:
                return float(value), torch.zeros_like(displacement)
            gradient = flat(torch.autograd.grad(value, leaves, materialize_grads=True))
        return float(value.detach()), gradient.double()


def double_backward(value: Value, at: Sequence[Tensor]) -> Product:
    """Return the function for products with the Hessian of a function of tensors, by autograd."""
    leaves = [t.detach().requires_grad_() for t in at]
    one = torch.ones((), dtype=torch.float64)

    def product(vector: Tensor) -> Tensor:
        return hvp_sum(lambda _: value(leaves), leaves, [(one, one, one)], lambda u, _: u, vector)

    return product


def _agreed(votes: Sequence[bool]) -> bool | None:
    """Return the majority, but False only from ``LOOKS`` votes on, because a single one may be a coincidence."""
    if votes.count(False) >= LOOKS:
        return False
    return True if votes.count(True) > votes.count(False) else None


def _symmetric(made: Sequence[tuple[Tensor, Tensor]]) -> bool:
    for (a, ha), (b, hb) in combinations(made, 2):
        terms = (a * hb, b * ha)
        size = sum(float(t.norm()) for t in terms)
        if not float((terms[0] - terms[1]).sum().abs()) <= SKEW * size and torch.isfinite(terms[0].sum()):
            return False
    return True
