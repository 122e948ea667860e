"""Examination of derivatives on a few samples in float64, before they are used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from sharpness.engine.autograd import pulled
from sharpness.engine.class_sums import PerSampleLoss, WeightedBatch
from sharpness.engine.culprit import Culprit
from sharpness.engine.double_backward import flat, ggn_sum, graph, hvp_sum, split, twice_differentiable
from sharpness.engine.modules import doubled
from sharpness.engine.stateless import called_with
from sharpness.engine.witness import LOOKS, PRODUCT, Verdict, Witness, double_backward

#: Relative steps of differences of outputs; their rounding errors are divided by the step only once.
GAUSS_NEWTON_STEPS = (1e-6, 1e-7, 1e-8, 1e-7)
#: A function from a flat vector to the gradient and the product with that vector, all in float64.
Route = Callable[[Tensor], tuple[Tensor, Tensor]]


class Examination:
    """Examine the derivatives of ``sum_i a_i (l(u_i, y_i) + c_i'u_i)`` with random numbers c.

    The second term makes the network's own derivatives visible where the loss is flat, at saturated outputs.

    Raises:
        Exception: any exception that the model raises in float64.
    """

    def __init__(
        self, module: nn.Module, parameters: Sequence[Tensor], loss: PerSampleLoss, batch: WeightedBatch
    ) -> None:
        self.module = module
        x, y, a = (t.double() if t.is_floating_point() else t for t in batch)
        self.batch: WeightedBatch = (x, y, a)
        self.leaves = [p.detach().double().requires_grad_() for p in parameters]
        names = {id(p): n for n, p in module.named_parameters()}
        self.names = [names[id(p)] for p in parameters]
        self.tensors = doubled(module) | dict(zip(self.names, self.leaves, strict=True))
        with torch.enable_grad(), twice_differentiable():
            u = self.forward(x)
            outputs = u.detach().requires_grad_()
            values = a * loss(outputs, y)
            (slope,) = torch.autograd.grad(values.sum(), outputs, allow_unused=True, materialize_grads=True)
            behind = graph([u, values])
        # If the model casts to float32 internally, differences at steps of 1e-7 are lost in rounding.
        self.exact = u.dtype is torch.float64 and not any(n.name() == "ToCopyBackward0" for n in behind)
        size = max(float(a.mean()), float(slope.square().mean().sqrt()))
        generator = torch.Generator().manual_seed(1)
        tilt = torch.randn(u.shape, generator=generator, dtype=torch.float64).to(u.device) * size
        self.magnitude = float((tilt * u.detach()).abs().sum()) + float(values.detach().abs().sum())

        def tilted(u: Tensor, y: Tensor) -> Tensor:
            return loss(u, y) + (tilt * u).reshape(len(u), -1).sum(1) / a

        self.loss = tilted
        self.plain_loss = loss
        self._first: dict[Route, Tensor] = {}

    @cached_property
    def witness(self) -> Witness:
        """The witness for the examined sum."""
        return Witness(self.value, self.leaves, self.magnitude)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs, with a graph to the leaves."""
        return called_with(self.module, self.tensors, (x,))

    def value(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return the examined sum as a function of the parameters."""
        _, y, a = self.batch
        return (a * self.loss(self._outputs(tensors), y)).sum()

    def plain(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Return gradient and product by autograd alone."""
        return self.witness.gradient, hvp_sum(self.forward, self.leaves, [self.batch], self.loss, vector)

    def difference(self, one: Route, other: Route) -> float:
        """Return the relative difference of two routes in gradient and product; verdicts reuse the products."""
        v = self.witness.first_vector
        (gradient, product), (other_gradient, other_product) = (route(v) for route in (one, other))
        self._first |= {one: product, other: other_product}
        scale = float(gradient.norm() + product.norm()) or 1.0
        return float((product - other_product).norm() + (gradient - other_gradient).norm()) / scale

    def verdict(self, route: Route | None) -> Verdict:
        """Return the verdict of the witness on a route, or on the gradient alone if the route is None."""
        if not self.exact:
            return Verdict(None, None, True)
        if route is None:
            return self.witness.verdict(None)
        return self.witness.verdict(lambda v: route(v)[1], self._first.get(route))

    def faithful(self, verdict: Verdict) -> bool:
        """True if a verdict against a product is reliable, because gradients are those at the given weights.

        A part that is recomputed in the backward pass (activation checkpointing) uses the module's own weights there;
        its gradients are correct at these weights and wrong at others.
        """
        if verdict.product is not False and verdict.symmetric:
            return True
        generator = torch.Generator().manual_seed(2)
        moved = [
            t.detach() * (1 + 0.1 * torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.device))
            for t in self.leaves
        ]
        return Witness(self.value, moved, self.magnitude).verdict(None).gradient is not False

    def gauss_newton(self, product: Callable[[Tensor], Tensor]) -> bool | None:
        """Compare ``product`` with ``J'(d2l/du2)J v``, with ``J v`` by differences of outputs; None if undecided."""
        votes: list[bool] = []
        sizes = [float(t.detach().square().mean().sqrt()) or 1.0 for t in self.leaves]
        scale = flat([torch.full_like(t, s) for t, s in zip(self.leaves, sizes, strict=True)]).detach()
        for seed, step in enumerate(GAUSS_NEWTON_STEPS if self.exact else ()):
            generator = torch.Generator().manual_seed(seed)
            v = scale * torch.randn(len(scale), generator=generator, dtype=torch.float64).to(scale.device)
            u, slope, doubt = self._slope(v, step)
            if not doubt <= PRODUCT:
                continue  # there is a kink between the points
            expected, found = scale * self._bent(u, slope), scale * product(v)
            size = max(float(expected.norm()), float(found.norm()))
            votes.append(float((expected - found).norm()) <= (PRODUCT + 20 * doubt) * size)
            if max(votes.count(True), votes.count(False)) >= LOOKS:
                break
        return votes.count(True) >= votes.count(False) if votes else None

    def _slope(self, v: Tensor, step: float) -> tuple[Tensor, Tensor, float]:
        """Return the outputs, their derivative along v, and its relative uncertainty."""
        with torch.no_grad(), twice_differentiable():
            u, up, down, up2, down2 = (
                self._outputs([p + s * d for p, d in zip(self.leaves, split(v, self.leaves), strict=True)])
                for s in (0.0, step, -step, step / 2, -step / 2)
            )
        slope = (up - down) / (2 * step)
        apart = max(float((slope - (up2 - down2) / step).norm()), float(((up + down - 2 * u) / step).norm()))
        return u, slope, apart / max(float(slope.norm()), 1e-300)

    def _bent(self, u: Tensor, slope: Tensor) -> Tensor:
        """Return ``J'(d2l/du2) slope``."""
        outputs = [u.detach().requires_grad_()]
        bent = hvp_sum(lambda _: outputs[0], outputs, [self.batch], self.plain_loss, slope.reshape(-1))
        with torch.enable_grad(), twice_differentiable():
            return flat(pulled([self._outputs(self.leaves)], self.leaves, [bent.view_as(u)], zeros=True))

    def plain_gauss_newton(self, vector: Tensor) -> Tensor:
        """Return the product with the Gauss-Newton matrix by autograd alone."""
        return ggn_sum(self.forward, self.leaves, [self.batch], self.plain_loss, vector)

    def loss_is_wrong(self) -> bool:
        """True if the second derivative of the loss by the outputs is wrong."""
        _, y, a = self.batch
        u = self._outputs(self.leaves).detach()

        def value(tensors: Sequence[Tensor]) -> Tensor:
            return (a * self.plain_loss(tensors[0], y)).sum()

        verdict = Witness(value, [u], float(value([u]).abs())).verdict(double_backward(value, [u]))
        return verdict.product is False

    def culprit(self) -> Culprit:
        """Return the search for the faulty layer, on the same samples."""
        return Culprit(self.module, lambda: self.forward(self.batch[0]), self.tensors)

    def _outputs(self, tensors: Sequence[Tensor]) -> Tensor:
        moved = dict(zip(self.names, tensors, strict=True))
        return called_with(self.module, self.tensors | moved, (self.batch[0],))
