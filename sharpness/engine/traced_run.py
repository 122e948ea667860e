r"""Pearlmutter's R-operator on a traced model: one forward and backward pass per batch, then any number of products.

.. code-block:: text

    once per batch       forward and backward; the tape keeps the inputs and output gradients of every layer
    once per product     tangents of scales, shifts and weights from v
        for every batch      forward_tangent, loss, backward_tangent        2 + 4 of a gradient's 3 convolutions
                         tangents of the gradient by the original weights

Sums over batches are accumulated in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sharpness.engine.class_sums import PerSampleLoss, WeightedBatch
from sharpness.engine.double_backward import flat, split
from sharpness.engine.operations import Smooth, State
from sharpness.engine.program import INPUT, Traced, by_sample, memory


@dataclass
class Tape:
    """The saved activations of one batch and its gradient, which are used by every product."""

    states: list[State | None]
    loss: Smooth
    loss_state: State
    gradient: dict[str, Tensor]

    def bytes(self) -> int:
        return memory([*self.states, self.loss_state])


class TracedRun:
    """A traced model at its current weights: tapes of batches, their gradient, and products with vectors.

    A product consists of ``push(v)``, ``multiply`` and ``add`` for every batch, and ``pull``.
    """

    def __init__(
        self, traced: Traced, parameters: Sequence[Tensor], loss: PerSampleLoss, kind: str, dtype: torch.dtype
    ) -> None:
        self.traced, self.loss, self.kind, self.dtype = traced, loss, kind, dtype
        self.parameters = list(parameters)
        self.device = self.parameters[0].device
        sources = {n: t.detach().double() if t.is_floating_point() else t for n, t in traced.sources.items()}
        self.shared = {n: self._as_used(n, t) for n, t in traced.prepare(sources).items()}
        order = self.order = [n for n in traced.shared if n in traced.active]
        self.position = {id(t): i for i, t in enumerate(traced.sources.values())}
        wanted = {id(p) for p in self.parameters}

        def prologue(*tensors: Tensor) -> tuple[Tensor, ...]:
            made = traced.prepare(dict(zip(sources, tensors, strict=True)))
            return tuple(made[n] for n in order)  # not self.order: a reference cycle would keep the graph alive

        self.prologue = Smooth([id(t) in wanted for t in traced.sources.values()], prologue)
        made, self.state = self.prologue.forward(*sources.values())
        self.gradients = {n: torch.zeros_like(t) for n, t in zip(self.order, made, strict=True)}
        self.changes = {n: torch.zeros_like(t) for n, t in self.gradients.items()}

    def record(self, batch: WeightedBatch, lean: bool = False) -> Tape:
        """Record the tape of a batch: a forward pass and, for a Hessian, a backward pass.

        Args:
            batch: inputs, targets and weights.
            lean: omit the gradient by direct parameters, which a single product does not need.
        """
        x, y, a = batch
        if x.ndim == 4 and self.traced.convolution_weights:
            x = x.contiguous(memory_format=torch.channels_last)
        values = {**self.shared, INPUT: x}
        states = self.traced.body.forward(values)
        head = Smooth([True], lambda u: (a * self.loss(u, y)).sum())
        value, state = head.forward(values[self.traced.result])
        (g,) = head.backward(state, torch.ones_like(value))
        gradient = {}
        if self.kind == "hessian":
            unwanted = self.traced.direct if lean else frozenset()
            gradient = self.traced.body.backward(states, {self.traced.result: g}, unwanted)
        return Tape(states, head, state, gradient)

    def take(self, gradient: dict[str, Tensor]) -> None:
        """Add a batch to the gradient."""
        _accumulate(self.gradients, gradient)

    def gradient(self) -> Tensor:
        """Return the gradient of all batches so far, flat (k,), in float64."""
        return self._collect(self.prologue.backward(self.state, list(self.gradients.values())))

    def push(self, vector: Tensor) -> None:
        """Start a product with v (k,): compute the tangents of everything that the body takes from the prologue."""
        positions = [self.position.get(id(p)) for p in self.parameters]
        pieces = dict(zip(positions, split(vector.double(), self.parameters), strict=True))
        self.along = [pieces[i] if on else None for i, on in enumerate(self.prologue.active)]
        tangents = self.prologue.forward_tangent(self.state, self.along)
        self.tangents = {n: self._as_used(n, t) for n, t in zip(self.order, tangents, strict=True)}
        for t in self.changes.values():
            t.zero_()

    def multiply(self, tape: Tape) -> dict[str, Tensor]:
        """Return the contribution of one batch to a product, by name."""
        body, result = self.traced.body, self.traced.result
        u_dot = body.forward_tangent(tape.states, self.tangents)[result]
        slope = tape.loss.forward_tangent(tape.loss_state, [u_dot])
        (g_dot,) = tape.loss.backward_tangent(tape.loss_state, torch.zeros_like(slope))
        return body.backward_tangent(tape.states, {result: g_dot})

    def forms(self, tape: Tape) -> Tensor:
        r"""Return :math:`v' \nabla_w^2 a_i \ell_i v` for every sample of a batch, (n,), in float64, forward only."""
        body, result = self.traced.body, self.traced.result
        (g,) = tape.loss.slopes(tape.loss_state)
        u_dot = body.forward_tangent(tape.states, self.tangents)[result]
        tape.loss.forward_tangent(tape.loss_state, [u_dot])
        (bent,) = tape.loss.bend(tape.loss_state)
        total = body.bend(tape.states, self.traced.shared, len(g))
        if bent is not None:
            total = total + by_sample(bent)
        if self.bends:  # if the prologue is nonlinear, such as a product of two parameters
            total = total + by_sample(g * body.forward_tangent(tape.states, self.bends)[result])
            body.bend(tape.states, (), len(g))  # frees the tangents
        return total

    def bend(self) -> None:
        """Prepare :meth:`forms` along the vector given to :meth:`push`."""
        second = self.prologue.second_tangent(self.state, self.along)
        zeros = {n: torch.zeros_like(t) for n, t in self.tangents.items()}
        self.bends = {n: self._as_used(n, t) for n, t in zip(self.order, second, strict=True) if t is not None}
        self.bends = zeros | self.bends if any(bool(t.any()) for t in self.bends.values()) else {}

    def add(self, change: dict[str, Tensor]) -> None:
        """Add a batch to the product."""
        _accumulate(self.changes, change)

    def pull(self, first: bool) -> Tensor:
        """Finish a product and return it, flat (k,), in float64."""
        # The second derivatives of the prologue need the gradient of all batches, which the first product only has at
        # its end: its tangents are computed once more with that gradient in the state.
        if first and self.kind == "hessian":
            self.prologue.backward(self.state, list(self.gradients.values()))
            self.prologue.forward_tangent(self.state, self.along)
        return self._collect(self.prologue.backward_tangent(self.state, list(self.changes.values())))

    def _as_used(self, name: str, tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            tensor = tensor.to(self.dtype)
        elif tensor.is_complex():
            tensor = tensor.to(self.dtype.to_complex())
        if tensor.ndim == 4 and name in self.traced.convolution_weights:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return tensor

    def _collect(self, by_source: Sequence[Tensor | None]) -> Tensor:
        pieces = []
        for p in self.parameters:
            found = by_source[self.position[id(p)]] if id(p) in self.position else None
            pieces.append(torch.zeros_like(p, dtype=torch.float64) if found is None else found)
        return flat(pieces)


def _accumulate(totals: dict[str, Tensor], parts: dict[str, Tensor]) -> None:
    for name, total in totals.items():
        if name in parts:
            total += parts[name]
