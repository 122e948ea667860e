"""A function as a list of operations, and its four passes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sharpness.engine.operations import Operation, PerInput, State


@dataclass(frozen=True)
class Step:
    """``output = operation(*inputs)``; a step without an operation is a constant, ``function(*inputs)``."""

    output: str
    inputs: tuple[str, ...]
    operation: Operation | None = None
    function: Any = None


@dataclass(frozen=True)
class Program:
    """Steps in the order of evaluation.

    Attributes:
        results: names that must survive the forward pass.
    """

    steps: Sequence[Step]
    results: frozenset[str]
    _dead_after: dict[str, list[str]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        last = {name: step.output for step in self.steps for name in step.inputs}
        for name, output in last.items():
            if name not in self.results:
                self._dead_after.setdefault(output, []).append(name)

    @torch.no_grad()
    def forward(self, values: dict[str, Any]) -> list[State | None]:
        """Run on ``values``, which gains the results and loses what nothing needs any more. Returns the states."""
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
        """Derivatives by the program's inputs, those ``unwanted`` left out, from the ones by its results."""

        def pull(operation: Operation, state: State, g: Tensor, names: Sequence[str]) -> PerInput:
            wanted = [on and n not in unwanted for n, on in zip(names, operation.active, strict=True)]
            return operation.backward(state, g, wanted)

        return self._pull(pull, states, cotangents)

    @torch.no_grad()
    def forward_tangent(self, states: Sequence[State | None], tangents: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tangents of the results, from those of the inputs."""
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
        """Tangents of the derivatives by the inputs; call after :meth:`forward_tangent`."""
        return self._pull(lambda operation, state, g, _: operation.backward_tangent(state, g), states, cotangents)

    def _pull(
        self, pull: Callable[..., PerInput], states: Sequence[State | None], start: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        totals = dict(start)
        for step, state in zip(reversed(self.steps), reversed(states), strict=True):
            if step.operation is None or state is None:
                continue
            g = totals.pop(step.output, None)
            if g is None:  # used only where no derivative passes, as under detach
                continue
            for name, piece in zip(step.inputs, pull(step.operation, state, g, step.inputs), strict=True):
                if piece is not None:
                    totals[name] = totals[name] + piece if name in totals else piece
        return totals


def memory(states: Iterable[State | None]) -> int:
    """Bytes that the states keep, every storage counted once."""
    storages = [t.untyped_storage() for s in states if s is not None for t in s.tensors()]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
