r"""Forward passes of a traced model at many weights, for loss landscapes.

.. code-block:: text

    once per model       fuse  relu(x * w + b)  and  relu(x * w + b + z)  into one operation each
    once per batch       layers that no parameter in scope reaches
    once per point       fold BatchNorm into the weights, convert them
        for every batch  the other layers, without graph or tape

In bfloat16, all convolutions and the layers between them have 8 bits of mantissa. The layers after the last convolution
(pooling, normalisation, classifier) are computed in float32, because logits are differences of large numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sharpness.engine.convolutions import Convolution, ScaledConvolution
from sharpness.engine.fused_convolution import FusedConvolution, available
from sharpness.engine.operations import Add, Linear, ReLU
from sharpness.engine.program import INPUT, Step, Traced, Untraceable, dead_after
from sharpness.engine.stateless import called_with

Forward = Callable[..., Tensor]

#: Largest relative difference between the outputs of a trace and of the module, in float64 and in float32, at which
#: the trace is trusted.
TRUSTED = {torch.float64: 1e-9, torch.float32: 1e-3}


@dataclass(frozen=True)
class Call:
    """One operation of a forward pass, which may combine several steps of the trace.

    Attributes:
        inputs: names of its inputs, except ``other``.
        other: name of the value that a fused convolution adds to its result; overwritten if ``in_place``.
        exact: whether it is computed in float32 whatever the precision.
    """

    step: Step
    output: str
    inputs: tuple[str, ...]
    other: str | None = None
    relu: bool = False
    in_place: bool = False
    exact: bool = False

    @property
    def takes(self) -> tuple[str, ...]:
        """Names of all inputs, ``other`` last."""
        return self.inputs if self.other is None else (*self.inputs, self.other)


class Inference:
    """The outputs of a traced model as a function of its tensors.

    Args:
        traced: a trace with all weights in its scope.
        sample: a few inputs, used to determine shapes.
        moving: names of the tensors that will change between calls.
        dtype: ``torch.bfloat16``, or the model's own dtype.
        by_inputs: whether autograd shall be able to differentiate the outputs by the inputs.

    Attributes:
        frontier: names of the values that moving layers take from fixed layers or from the inputs.
    """

    def __init__(
        self, traced: Traced, sample: Tensor, moving: frozenset[str], dtype: torch.dtype, by_inputs: bool = False
    ) -> None:
        self.traced, self.dtype, self.device, self.by_inputs = traced, dtype, sample.device, by_inputs
        self.reduced = dtype is torch.bfloat16
        self.own = torch.float32 if self.reduced else dtype
        reached = set(moving)
        for step in (*traced.prologue, *traced.body.steps):
            if reached & set(step.inputs):
                reached.add(step.output)
        self.shared = frozenset(traced.shared)
        calls = self._fuse(self._shapes(sample), reached)
        self.fixed = [c for c in calls if c.output not in reached]
        self.moving = [c for c in calls if c.output in reached]
        made = {INPUT, *(c.output for c in self.fixed)}
        used = {name for c in self.moving for name in c.takes if name in made}
        self.frontier = tuple(sorted(used))

    def before(self, sources: dict[str, Tensor]) -> Callable[[Tensor], tuple[Tensor, ...]]:
        """Return the function of the fixed layers: inputs (n, ...) to the values of ``frontier``."""
        run = self._bind(self.fixed, self.traced.prepare(sources), frozenset(self.frontier))

        def fixed(x: Tensor) -> tuple[Tensor, ...]:
            known = run({INPUT: self._cast(x) if x.is_floating_point() and x.ndim == 4 else x})
            return tuple(known[name] for name in self.frontier)

        return fixed

    def at(self, sources: dict[str, Tensor]) -> Forward:
        """Return the function of the moving layers at the given tensors: the values of ``frontier`` to the outputs."""
        result = self.traced.result
        run = self._bind(self.moving, self.traced.prepare(sources), frozenset({result}))
        return lambda *given: run(dict(zip(self.frontier, given, strict=True)))[result].to(self.own)

    @torch.no_grad()
    def require_trust(self, module: nn.Module, sources: dict[str, Tensor], x: Tensor) -> None:
        """Compare the outputs of the trace with those of the module in float64.

        Raises:
            Untraceable: they differ by more than :data:`TRUSTED` of the largest.
        """
        doubled, exact = (
            {n: t.to(d, copy=True) if t.is_floating_point() else t for n, t in tensors.items()}
            for tensors, d in (
                (sources, self.dtype),
                (dict([*module.named_parameters(), *module.named_buffers()]), torch.float64),
            )
        )
        wide = x.double() if x.is_floating_point() else x
        expected = called_with(module, exact, (wide,))
        given = x.to(self.dtype) if x.is_floating_point() else x
        outputs = self.at(doubled)(*self.before(doubled)(given))
        difference = float((outputs - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
        if not difference <= TRUSTED[self.dtype] and bool(expected.isfinite().all()):  # otherwise there is no verdict
            raise Untraceable(f"traced, its outputs differ by {difference:.1e} in {self.dtype}")

    def _bind(self, calls: Sequence[Call], values: dict[str, Tensor], results: frozenset[str]) -> Any:
        """Prepare the weights of some calls, and return the function from their inputs to ``results``, by name."""
        bound = [(c, self._convolution(c, values) if _convolves(c.step) else self._other(c, values)) for c in calls]
        dead = dead_after(((c.output, c.takes) for c in calls), results)

        def run(known: dict[str, Any]) -> dict[str, Any]:
            grad = torch.set_grad_enabled(self.by_inputs and torch.is_grad_enabled())
            with grad, torch.autocast(self.device.type, torch.bfloat16, enabled=self.reduced):
                for call, function in bound:
                    known[call.output] = function(*(known[name] for name in call.takes))
                    for name in dead.get(call.output, ()):
                        known.pop(name, None)
            return known

        return run

    def _convolution(self, call: Call, values: dict[str, Tensor]) -> Forward:
        """Return the function ``relu(x * w + b + other)``, or the part of it that the call has."""
        operation = call.step.operation
        assert isinstance(operation, Convolution)
        w, *rest = (values[name] for name in call.step.inputs[1:])
        b = rest[-1].to(self.dtype) if rest else None
        if isinstance(operation, ScaledConvolution):
            w = w * rest[0].view(-1, *[1] * (w.ndim - 1))
        w = self._cast(w)
        missing = self.reduced and operation.geometry[-1] > 1 and call.relu and call.other  # in oneDNN, with groups
        if available(w) and not missing:
            fused = FusedConvolution(w, b, operation.geometry, call.relu)
            apply = fused.differentiable if self.by_inputs else partial(fused, in_place=call.in_place)
            return lambda x, *other: apply(self._cast(x), *map(self._cast, other))

        def apart(x: Tensor, other: Tensor | None = None) -> Tensor:
            y = torch.ops.aten.convolution(self._cast(x), w, b, *operation.geometry)
            if other is not None:
                y.add_(other)
            return y.relu_() if call.relu else y

        return apart

    def _other(self, call: Call, values: dict[str, Tensor]) -> Forward:
        step = call.step
        given = [values.get(name) if name in self.shared else None for name in step.inputs]

        def function(*activations: Any) -> Any:
            rest = iter(activations)
            inputs: list[Any] = [
                next(rest) if name not in self.shared else t for name, t in zip(step.inputs, given, strict=True)
            ]
            if not (call.exact and self.reduced):
                return step.value(inputs)
            with torch.autocast(self.device.type, enabled=False):
                return step.value([t.to(self.own) if _is_reduced(t) else t for t in inputs])

        return function

    def _fuse(self, shapes: dict[str, Any], reached: set[str]) -> list[Call]:
        """Merge the steps of the body into calls: a convolution absorbs a sum and a ReLU that alone use its output."""
        steps = list(self.traced.body.steps)
        users: dict[str, list[Step]] = {}
        for step in steps:
            for name in step.inputs:
                users.setdefault(name, []).append(step)
        position = {step.output: i for i, step in enumerate(steps)}
        last_convolution = max((i for i, s in enumerate(steps) if _convolves(s)), default=len(steps) - 2)
        taken: dict[str, Call] = {}  # by the last step that a call absorbs
        absorbed: set[str] = set()

        def follower(step: Step, kind: type) -> Step | None:
            # Not across the frontier: fused with a moving sum, a fixed convolution would be recomputed at every point.
            after = users.get(step.output, [])
            if len(after) != 1 or step.output == self.traced.result or step.output in self.shared:
                return None
            same = (step.output in reached) == (after[0].output in reached)
            return after[0] if isinstance(after[0].operation, kind) and same else None

        for step in steps:
            if not _convolves(step):
                continue
            end, other = step, None
            added = follower(step, Add)
            if added is not None and Counter(added.inputs)[step.output] == 1:
                candidate = next(name for name in added.inputs if name != step.output)
                # Of two convolutions in one sum, only the later one may absorb it; sums that broadcast are not fused.
                ready = position.get(candidate, -1) < position[step.output] and candidate not in self.shared
                if ready and shapes[candidate] == shapes[step.output] == shapes[added.output]:
                    end, other = added, candidate
            relu = follower(end, ReLU)
            end = end if relu is None else relu
            absorbed |= {step.output, added.output if added and other else step.output} - {end.output}
            taken[end.output] = Call(step, end.output, step.inputs[:1], other, relu is not None)
        calls: list[Call] = []
        for i, step in enumerate(steps):
            if step.output in taken:
                calls.append(taken[step.output])
            elif step.output not in absorbed:
                inputs = tuple(n for n in step.inputs if n not in self.shared)
                calls.append(Call(step, step.output, inputs, exact=i > last_convolution))
        last = {name: call.output for call in calls for name in call.takes}  # a fused convolution runs at its last step
        makers = {step.output: step for step in steps}

        def spare(call: Call) -> bool:
            """True if ``other`` is not needed after this call, and there is no view of it or of its source."""
            other = call.other
            if other not in reached or other not in makers or other == call.inputs[0] or last[other] != call.output:
                return False
            return all(_makes_new(step) for step in (makers[other], *users[other]))

        return [replace(call, in_place=not self.by_inputs and spare(call)) for call in calls]

    @torch.no_grad()
    def _shapes(self, sample: Tensor) -> dict[str, torch.Size]:
        """Return the shapes of all tensors of the body, for a few inputs."""
        values = self.traced.values(self.traced.sources, sample)
        return {name: v.shape for name, v in values.items() if isinstance(v, Tensor)}

    def _cast(self, t: Tensor) -> Tensor:
        """Convert to the precision and memory layout of convolutions."""
        t = t.to(self.dtype)
        return t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t


def _convolves(step: Step) -> bool:
    return isinstance(step.operation, Convolution)


def _makes_new(step: Step) -> bool:
    """True if the result shares no memory with the inputs."""
    return isinstance(step.operation, Convolution | Linear | ReLU | Add)


def _is_reduced(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype is torch.bfloat16
