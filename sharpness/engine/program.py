"""Programs: a traced function as a list of operations, with the four passes of a curvature product."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sharpness.engine.convolutions import Convolution
from sharpness.engine.operations import Operation, PerInput, Smooth, State

INPUT = "input"


class Untraceable(Exception):
    """Raised if a module cannot be converted to a program; the message states the reason in a few words."""


@dataclass(frozen=True)
class Step:
    """``output = operation(*inputs)``, or for a constant without an operation, ``function(*inputs)``."""

    output: str
    inputs: tuple[str, ...]
    operation: Operation | None = None
    function: Any = None

    def value(self, inputs: Sequence[Any]) -> Any:
        """Return the output without a state."""
        return self.function(*inputs) if self.operation is None else self.operation.value(*inputs)


@dataclass(frozen=True)
class Program:
    """Steps in the order of evaluation.

    Attributes:
        steps: the steps.
        results: names of values that are kept after the forward pass.
    """

    steps: Sequence[Step]
    results: frozenset[str]
    _dead_after: dict[str, list[str]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._dead_after.update(dead_after(((step.output, step.inputs) for step in self.steps), self.results))

    @torch.no_grad()
    def forward(self, values: dict[str, Any]) -> list[State | None]:
        """Run all steps on ``values`` and return their states; values are removed after their last use."""
        states: list[State | None] = []
        for step in self.steps:
            inputs = [values[name] for name in step.inputs]
            if step.operation is None:
                values[step.output] = step.function(*inputs)
                states.append(None)
            else:
                values[step.output], state = step.operation.forward(*inputs)
                states.append(state)
            for name in self._dead_after.get(step.output, ()):
                values.pop(name)
        return states

    @torch.no_grad()
    def backward(
        self, states: Sequence[State | None], cotangents: Mapping[str, Tensor], unwanted: frozenset[str] = frozenset()
    ) -> dict[str, Tensor]:
        """Return derivatives by the inputs of the program, except ``unwanted`` ones, from those by its results."""

        def pull(operation: Operation, state: State, g: Tensor, names: Sequence[str]) -> PerInput:
            wanted = [on and n not in unwanted for n, on in zip(names, operation.active, strict=True)]
            return operation.backward(state, g, wanted)

        return self._pull(pull, states, cotangents)

    @torch.no_grad()
    def forward_tangent(self, states: Sequence[State | None], tangents: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return tangents of the results, from those of the inputs."""
        tangents = dict(tangents)
        for step, state in zip(self.steps, states, strict=True):
            if step.operation is None or state is None:
                continue
            pieces = [tangents[n] if on else None for n, on in zip(step.inputs, step.operation.active, strict=True)]
            tangents[step.output] = step.operation.forward_tangent(state, pieces)
            for name in self._dead_after.get(step.output, ()):
                tangents.pop(name, None)
        return tangents

    @torch.no_grad()
    def backward_tangent(self, states: Sequence[State | None], cotangents: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tangents of the derivatives by the inputs; call after :meth:`forward_tangent`."""
        return self._pull(lambda operation, state, g, _: operation.backward_tangent(state, g), states, cotangents)

    @torch.no_grad()
    def bend(self, states: Sequence[State | None], shared: Collection[str], samples: int) -> Tensor:
        """Return ``g' f''(x., x.)`` of every sample, summed over steps, (n,); call after :meth:`forward_tangent`.

        Raises:
            Untraceable: a part does not belong to a single sample, or comes from a parameter shared by all samples.
        """
        total = torch.zeros((), dtype=torch.float64)
        for step, state in zip(self.steps, states, strict=True):
            if step.operation is None or state is None:
                continue
            for j, part in enumerate(step.operation.bend(state)):
                if part is None:
                    continue
                if part.shape[:1] != (samples,) or (isinstance(step.operation, Smooth) and step.inputs[j] in shared):
                    raise Untraceable(f"{step.output} does not keep samples apart")
                total = total.to(part.device) + by_sample(part)
        return total

    def _pull(
        self, pull: Callable[..., PerInput], states: Sequence[State | None], start: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        totals = dict(start)
        for step, state in zip(reversed(self.steps), reversed(states), strict=True):
            if step.operation is None or state is None:
                continue
            g = totals.pop(step.output, None)
            if g is None:  # only used where no derivative passes, for example under detach
                continue
            for name, piece in zip(step.inputs, pull(step.operation, state, g, step.inputs), strict=True):
                if piece is not None:
                    totals[name] = totals[name] + piece if name in totals else piece
        return totals


@dataclass(frozen=True)
class Scale:
    """``s = gamma / sigma`` of a BatchNorm in eval mode, with gamma = 1 unless it is given."""

    eps: float

    def __call__(self, variance: Tensor, gamma: Any = 1) -> Tensor:
        return gamma * (variance + self.eps).rsqrt()


@dataclass(frozen=True)
class Shift:
    """``t = beta + s (bias - mean)`` of a BatchNorm in eval mode after a layer; beta and bias are 0 unless they exist.

    Attributes:
        beta: whether the BatchNorm has a beta.
        bias: whether the layer has a bias.
    """

    beta: bool
    bias: bool

    def __call__(self, s: Tensor, mean: Tensor, *terms: Tensor) -> Tensor:
        inner = (terms[-1] if self.bias else 0) - mean
        return s * inner + (terms[0] if self.beta else 0)


def dead_after(uses: Iterable[tuple[str, Sequence[str]]], results: frozenset[str]) -> dict[str, list[str]]:
    """Return, by output of a step, the names that no later step uses.

    Args:
        uses: (output, inputs) of every step, in the order of evaluation.
        results: names that are never dropped.
    """
    last = {name: output for output, inputs in uses for name in inputs}
    dead: dict[str, list[str]] = {}
    for name, output in last.items():
        if name not in results:
            dead.setdefault(output, []).append(name)
    return dead


def by_sample(part: Tensor) -> Tensor:
    """Sum over all axes except the first, (n, ...) to (n,), in float64."""
    axes = tuple(range(1, part.ndim))
    return part.sum(axes, dtype=torch.float64) if axes else part.double()


@dataclass(frozen=True)
class Traced:
    """``outputs = body(input, prologue(parameters))``.

    Attributes:
        prologue: steps without operations.
        body: program that runs on every batch.
        sources: all tensors of the module that prologue and body read, by internal names.
        shared: names of the values that the body takes from the prologue or directly from the module.
        active: names in ``shared`` that depend on a parameter in scope.
        result: name of the outputs.
    """

    prologue: tuple[Step, ...]
    body: Program
    sources: dict[str, Tensor]
    shared: tuple[str, ...]
    active: frozenset[str]
    result: str

    def prepare(self, sources: dict[str, Tensor]) -> dict[str, Tensor]:
        """Run the prologue: return the inputs of the body from the tensors of the module, both by name."""
        values = dict(sources)
        for step in self.prologue:
            values[step.output] = step.function(*(values[n] for n in step.inputs))
        return {name: values[name] for name in self.shared}

    def values(self, sources: dict[str, Tensor], x: Tensor) -> dict[str, Any]:
        """Return all values of the body by name, as a function of the module's tensors, for torch.func transforms."""
        values: dict[str, Any] = {INPUT: x, **self.prepare(sources)}
        for step in self.body.steps:
            values[step.output] = step.value([values[name] for name in step.inputs])
        return values

    @property
    def convolution_weights(self) -> frozenset[str]:
        """Names of the values that are convolution weights."""
        return frozenset(s.inputs[1] for s in self.body.steps if isinstance(s.operation, Convolution))

    @property
    def direct(self) -> frozenset[str]:
        """Names of parameters that the body uses directly and the prologue does not use."""
        used = {n for step in self.prologue for n in step.inputs}
        return frozenset(n for n in self.shared if n in self.sources and n not in used)


def memory(states: Iterable[State | None]) -> int:
    """Return the bytes that the states keep, counting every storage once; sparse tensors are not counted."""
    tensors = [t for s in states if s is not None for t in s.tensors()]
    storages = [t.untyped_storage() for t in tensors if t.layout is torch.strided]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
