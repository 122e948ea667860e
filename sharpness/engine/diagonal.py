r"""Exact traces of the Hessians of single samples, without random vectors.

Between kinks, the activations of a network of convolutions, BatchNorm in eval mode, ReLU and pooling are affine in
every single parameter: a path from the input to an activation passes each weight at most once. So if v is such an
activation and the loss of sample i is :math:`\varphi_i(v_i(w))`, the second derivative of v by a single parameter is
zero, and

.. math:: \operatorname{tr} \nabla_w^2 \ell_i = \operatorname{tr} J_i' (\nabla_v^2 \varphi_i) J_i
          = \sum_c \lambda_{ic} \, \lVert J_i' u_{ic} \rVert^2, \qquad J_i = \partial v_i / \partial w,

with the eigenvalues and -vectors of the small matrix :math:`\nabla_v^2 \varphi_i`. For the outputs of C classes under
cross-entropy it has C - 1 of them that are not zero, each with one backward pass of all samples, where Hutchinson's
estimator takes hundreds of products. The split between v and :math:`\varphi` is the last one possible: at the outputs,
or before a head that normalises its features.

A backward pass computes :math:`J_i' u` of every sample, layer by layer; only its square remains.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sharpness.engine.class_sums import PerSampleLoss, WeightedBatch
from sharpness.engine.program import INPUT, Program, Scale, Shift, Step, Traced, Untraceable, by_sample

#: Largest number of derivatives of single samples in memory at once.
CHUNK = 2**24
#: Eigenvalues below this share of the largest one of a sample do not count.
NEGLIGIBLE = 1e-9


@dataclass(frozen=True)
class Split:
    """A traced network as a function that is piecewise linear in each parameter, and the rest.

    Attributes:
        inner: the program up to v.
        cut: the name of v.
        outer: the steps from v to the outputs.
        sources: names of the parameters in scope that v depends on.
        rest: names of the parameters in scope that only ``outer`` depends on.
        constants: names of the other values that ``outer`` takes from ``inner``.
    """

    inner: Program
    cut: str
    outer: Sequence[Step]
    sources: tuple[str, ...]
    rest: tuple[str, ...]
    constants: tuple[str, ...]

    @property
    def obstacle(self) -> str:
        """The name of the operation after v."""
        return plain_name(self.outer[0].output)

    @classmethod
    def of(cls, traced: Traced, in_scope: set[int]) -> Split:
        """Find the last possible split.

        Args:
            traced: the network.
            in_scope: ids of the parameters to differentiate by.

        Raises:
            Untraceable: there is none, because an operation has several results of the part before it as inputs.
        """
        active = {n for n, t in traced.sources.items() if id(t) in in_scope}
        origin = _origins(traced, active)
        uses = Counter(n for step in (*traced.prologue, *traced.body.steps) for n in step.inputs if n in active)
        steps = traced.body.steps
        place = next((i for i, step in enumerate(steps) if not _fits(step, traced, origin, uses)), len(steps))
        inner, outer = steps[:place], steps[place:]
        made = {step.output for step in outer}
        taken = {
            name
            for step in outer
            if step.operation is not None
            for name, on in zip(step.inputs, step.operation.active, strict=True)
            if on and name not in traced.active and name not in made
        }
        if outer and len(taken) != 1:
            raise Untraceable(f"{plain_name(outer[0].output)} is not piecewise linear in every parameter")
        cut = taken.pop() if taken else traced.result
        sources = _reached(inner, traced, origin)
        rest = _reached(outer, traced, origin) - sources
        # Values that no parameter in scope reaches may be used by both parts.
        other = {n for step in outer for n in step.inputs} - made - set(traced.shared) - {INPUT, cut}
        program = Program(inner, frozenset({cut, *other, *traced.shared}))
        return cls(program, cut, outer, tuple(sorted(sources)), tuple(sorted(rest)), tuple(sorted(other)))


def plain_name(output: str) -> str:
    """Return the name of an operation without its number in the program."""
    return f"operation {output.partition(':')[0]!r}"


def _origins(traced: Traced, active: set[str]) -> dict[str, frozenset[str]]:
    """Return the parameters in scope that each value of the prologue depends on, by name."""
    origin = {name: frozenset({name}) for name in active}
    for step in traced.prologue:
        origin[step.output] = frozenset().union(*(origin.get(n, frozenset()) for n in step.inputs))
    return origin


def _reached(steps: Sequence[Step], traced: Traced, origin: Mapping[str, frozenset[str]]) -> set[str]:
    return {o for step in steps for n in step.inputs if n in traced.active for o in origin[n]}


def _fits(step: Step, traced: Traced, origin: Mapping[str, frozenset[str]], uses: Mapping[str, int]) -> bool:
    """Return True if the output is piecewise linear in each parameter, given that the activations are."""
    operation = step.operation
    if operation is None:
        return True
    made = {s.output: s.function for s in traced.prologue}
    for place, (name, on) in enumerate(zip(step.inputs, operation.active, strict=True)):
        if not on:
            continue
        if name not in traced.active:
            if place in operation.parameters:  # a product of two activations
                return False
            continue
        # Weights that are made from parameters in another way, or that are used again, may enter as a product.
        plain = name in traced.sources or isinstance(made[name], Scale | Shift)
        if place not in operation.parameters or not plain or any(uses[source] > 1 for source in origin[name]):
            return False
    return operation.piecewise_linear


class ExactTraces:
    """Traces of the Hessians of single samples by the parameters before the split, see the module's docstring.

    Args:
        traced: the network.
        parameters: the parameters in scope.
        loss: the loss of every sample.
        shared: what the body takes from prologue and module, in the dtype of the run.
        units: the unit of every parameter's coordinates, of the shape of the parameter; None for 1.

    Attributes:
        split: where the network is split.
    """

    def __init__(
        self,
        traced: Traced,
        parameters: Sequence[Tensor],
        loss: PerSampleLoss,
        shared: dict[str, Tensor],
        units: Sequence[Tensor] | None = None,
    ) -> None:
        self.traced, self.loss, self.shared = traced, loss, shared
        self.split = Split.of(traced, {id(p) for p in parameters})
        order = {id(p): i for i, p in enumerate(parameters)}
        self.places = {n: order[id(t)] for n, t in traced.sources.items() if id(t) in order}
        self.parameters, self.units = len(parameters), None if units is None else [u.double().square() for u in units]
        doubled = {n: t.detach().double() if t.is_floating_point() else t for n, t in traced.sources.items()}
        self._leaves = {n: doubled[n].requires_grad_() for n in self.split.sources}
        with torch.enable_grad():
            self._made = traced.prepare(doubled | self._leaves)
        self._exact = {n: t.detach() for n, t in self._made.items()}
        used = {n for step in self.split.inner.steps for n in step.inputs} & traced.active - set(traced.sources)
        self._indirect = sum(self._made[n].numel() for n in used)  # derivatives of a sample by scales and shifts

    @torch.no_grad()
    def width(self, x: Tensor) -> int:
        """Return the number of values of v of a sample: the largest number of backward passes."""
        values = {**self.shared, INPUT: x}
        self.split.inner.forward(values)
        return values[self.split.cut][0].numel()

    @torch.no_grad()
    def __call__(self, batch: WeightedBatch) -> Tensor:
        """Return the traces of the samples of a batch, without their weights, by parameter: (n, P), in float64."""
        x, y, _ = batch
        if x.ndim == 4 and self.traced.convolution_weights:
            x = x.contiguous(memory_format=torch.channels_last)
        values = {**self.shared, INPUT: x}
        states = self.split.inner.forward(values)
        v = values[self.split.cut]
        if len(v) != len(x):
            raise Untraceable(f"{plain_name(self.split.cut)} does not keep samples apart")
        sizes, vectors = torch.linalg.eigh(self._curvature(values, y))
        order = sizes.abs().argsort(dim=1, descending=True)
        sizes = sizes.gather(1, order)
        vectors = vectors.gather(2, order[:, None].expand_as(vectors))
        counts = (sizes.abs() > NEGLIGIBLE * sizes[:, :1].abs()).any(dim=0)
        columns = [vectors[:, :, c].to(v.dtype).view_as(v) for c in range(int(counts.sum()))]
        if not columns:
            return torch.zeros(len(x), self.parameters, dtype=torch.float64, device=x.device)
        group = max(1, CHUNK // (len(x) * max(1, self._indirect)))
        squares = [self._squares(states, columns[i : i + group], len(x)) for i in range(0, len(columns), group)]
        return torch.einsum("nc,cnp->np", sizes[:, : len(columns)], torch.cat(squares))

    def squared_slopes(self, x: Tensor, direction: Tensor) -> Tensor:
        r"""Return :math:`|(\partial f(x_i) / \partial w)' r|^2` of every sample, (n,), for w before the split.

        Args:
            x: inputs.
            direction: r, of the shape of the outputs.
        """
        values = {**self.shared, INPUT: x}
        with torch.no_grad():
            states = self.split.inner.forward(values)
        v = values[self.split.cut].detach().requires_grad_()
        with torch.enable_grad():
            outputs = self._outer(values | {self.split.cut: v})
            (column,) = torch.autograd.grad(outputs, v, direction.to(outputs.dtype))
        return self._squares(states, [column], len(x))[0].sum(dim=1)

    def _outer(self, values: dict[str, Any]) -> Tensor:
        """Return the outputs from v and the other values that the inner program leaves."""
        for step in self.split.outer:
            values[step.output] = step.value([values[name] for name in step.inputs])
        return values[self.traced.result]

    def _curvature(self, values: dict[str, Any], y: Tensor) -> Tensor:
        """Return the Hessian of the loss by v of every sample, (n, d, d), in float64."""
        kept = {n: values[n] for n in (INPUT, self.split.cut, *self.split.constants) if n in values}
        doubled = {n: t.double() if isinstance(t, Tensor) and t.is_floating_point() else t for n, t in kept.items()}
        leaf = doubled[self.split.cut].detach().requires_grad_()
        doubled[self.split.cut] = leaf
        with torch.enable_grad():
            losses = self.loss(self._outer(self._exact | doubled), y)
            (slope,) = torch.autograd.grad(losses.sum(), leaf, create_graph=True)
            slope = slope.flatten(1)
            rows = []
            for j in range(slope.shape[1]):
                row = torch.zeros_like(leaf)
                if slope.requires_grad:
                    (row,) = torch.autograd.grad(slope[:, j].sum(), leaf, retain_graph=True)
                rows.append(row.flatten(1))
        found = torch.stack(rows, dim=1)
        if not bool(found.isfinite().all()):
            raise Untraceable("the second derivatives of the loss by the outputs are not finite")
        return (found + found.mT) / 2

    def _squares(self, states: Sequence[Any], columns: Sequence[Tensor], samples: int) -> Tensor:
        """Return the squared norms of the derivatives by each parameter, (columns, n, P)."""
        shape = len(columns), samples, self.parameters
        found = torch.zeros(shape, dtype=torch.float64, device=columns[0].device)
        indirect: dict[str, list[Tensor]] = {}
        for c, column in enumerate(columns):
            totals = {self.split.cut: column}
            for step, state in zip(reversed(self.split.inner.steps), reversed(states), strict=True):
                g = totals.pop(step.output, None)
                if step.operation is None or state is None or g is None:
                    continue
                for name, piece in zip(step.inputs, step.operation.pull(state, g), strict=True):
                    if piece is not None:
                        totals[name] = totals[name] + piece if name in totals else piece
                if any(step.operation.active[j] for j in step.operation.parameters if j < len(step.inputs)):
                    self._of_step(step, state, g, found[c], indirect)
        if indirect:
            self._of_prologue(indirect, found)
        return found

    def _of_step(self, step: Step, state: Any, g: Tensor, found: Tensor, indirect: dict[str, list[Tensor]]) -> None:
        """Write the squares of parameters that an operation uses directly to found (n, P); keep others' derivatives."""
        assert step.operation is not None
        samples = len(found)
        if len(g) != samples:
            raise Untraceable(f"{plain_name(step.output)} does not keep samples apart")
        each = max(self.shared[n].numel() for n in step.inputs if n in self.traced.active)
        size = max(1, CHUNK // each)
        for chunk in (slice(i, i + size) for i in range(0, samples, size)):
            pieces = step.operation.pull_apart(state, g, chunk)
            for name, piece in zip(step.inputs, pieces, strict=True):
                if piece is not None and name in self.places:
                    found[chunk, self.places[name]] = self._weighed(piece, name)
                elif piece is not None:
                    indirect.setdefault(name, []).append(piece.double())

    def _weighed(self, derivative: Tensor, name: str) -> Tensor:
        """Return the sum of squares in the coordinates of a parameter for every sample, (m,)."""
        unit = None if self.units is None else self.units[self.places[name]]
        return by_sample(derivative.square() if unit is None else derivative.double().square() * unit)

    def _of_prologue(self, indirect: dict[str, list[Tensor]], found: Tensor) -> None:
        """Write the squares of parameters of BatchNorm and of the biases before it to found (columns, n, P)."""
        names = list(indirect)
        slopes = torch.autograd.grad(
            [self._made[n] for n in names], list(self._leaves.values()), [torch.cat(indirect[n]) for n in names],
            retain_graph=True, allow_unused=True, is_grads_batched=True,
        )  # fmt: skip
        for name, slope in zip(self._leaves, slopes, strict=True):
            if slope is not None:
                found[:, :, self.places[name]] = self._weighed(slope, name).view(found.shape[:2])
