r"""Gradients and curvature products of :math:`\sum_i a_i \ell(f_w(x_i), y_i)`, by the cheapest exact route.

.. code-block:: text

    once per model       trace it, fold BatchNorm, check the result against double backward on a few samples
    once per batch       forward and backward; keep the inputs and output gradients of every layer (the residuals)
    once per product     tangents of scales, shifts and weights from v
        for every batch      forward_tangent, loss, backward_tangent        2 + 4 of a gradient's 3 convolutions
                         tangents of the gradient by the original weights

Residuals are kept while they fit in the memory that is given; for the batches beyond, they are made again in every
product, which then costs a gradient's forward and backward pass more. Sums are accumulated in float64.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from sharpness.engine.class_sums import PerSampleLoss, WeightedBatch
from sharpness.engine.culprit import Call
from sharpness.engine.double_backward import (
    flat,
    ggn_sum,
    gradient_sum,
    hvp_sum,
    quadratic_forms,
    split,
    twice_differentiable,
)
from sharpness.engine.examination import Examination
from sharpness.engine.modules import buffers_kept
from sharpness.engine.operations import Smooth, State
from sharpness.engine.program import memory
from sharpness.engine.threads import in_threads
from sharpness.engine.tracing import INPUT, Traced, Untraceable, first_line, structure, trace
from sharpness.engine.witness import Verdict
from sharpness.errors import UserError, choose

KINDS = ("hessian", "ggn")
#: Largest relative difference from double backward, in float64, at which a traced model is trusted.
TRUSTED = 1e-6
#: Samples that a model is examined on.
SAMPLES = 4
logger = logging.getLogger("sharpness")


@dataclass
class Residuals:
    """What one batch leaves for every product with it."""

    states: list[State | None]
    loss: Smooth
    loss_state: State
    gradient: dict[str, Tensor]

    def bytes(self) -> int:
        return memory([*self.states, self.loss_state])


class SecondOrder:
    """The engine of one model: traced at the first use, then good for any data and any vector.

    Args:
        module: inputs to outputs, in eval mode.
        parameters: those that derivatives are taken by.
        loss: outputs and labels to losses (n,).
    """

    def __init__(self, module: nn.Module, parameters: Sequence[Tensor], loss: PerSampleLoss) -> None:
        self.module = module
        self.parameters = list(parameters)
        self.loss = loss
        self._traced: Traced | None = None
        self._structure: list[Any] = []
        self._reason: str | None = None
        self._refusals: dict[str, UserError] = {}
        self._examination: Examination | None = None

    @property
    def stale(self) -> bool:
        """Whether the model's make-up, such as the scale of its head, has changed since it was traced."""
        judged = self._traced is not None or bool(self._refusals)
        return judged and structure(self.module) != self._structure

    @property
    def route(self) -> str:
        """How products are made, in one line."""
        if self._traced is not None:
            return "traced, BatchNorm folded, residuals kept"
        return f"double backward ({self._reason or 'not traced yet'})"

    def require_parameters(self) -> None:
        """Refuse a model that has other parameters than those it had.

        Raises:
            UserError: some were replaced.
        """
        present = {id(p) for p in self.module.parameters()}
        if any(id(p) not in present for p in self.parameters):
            raise UserError(
                "the model's parameters were replaced by others (a new layer, or load_state_dict with assign=True): "
                "build the Objective again"
            )

    def prepare(self, batch: WeightedBatch) -> None:
        """Trace the model, once unless its make-up changes, and find the route whose products are right.

        On a few samples, in float64, the traced products are compared with double backward, and the ones to be used
        with differences of gradients (:mod:`~sharpness.engine.witness`).
        """
        if self.stale:
            self._traced, self._refusals = None, {}
        elif self._traced is not None or self._reason is not None or self._refusals:
            return
        self._structure = structure(self.module)
        few = tuple(t[:: -(-len(t) // SAMPLES)] for t in batch)
        traced, examination = None, None
        try:
            examination = Examination(self.module, self.parameters, self.loss, few)  # type: ignore[arg-type]
            with twice_differentiable():
                traced = trace(self.module, batch[0][:2], self.parameters)
                difference = examination.difference(partial(self._in_float64, traced), examination.plain)
            if math.isnan(difference):
                return  # no verdict on the model at weights or inputs that are not finite
            if not difference <= TRUSTED:
                raise Untraceable(f"traced, it differs from double backward by {difference:.1e}")
            if structure(self.module) != self._structure:
                traced = None
                raise Untraceable("its attributes change with every pass")
            self._traced = traced
        except Untraceable as error:
            self._reason = str(error)
        except Exception as error:
            self._reason = f"while tracing, {first_line(error)}"
        try:
            if examination is not None:
                self._judge(examination, traced)
        except Exception as error:  # such as of operations that do not exist in float64
            logger.debug("derivatives were not examined: %s", first_line(error))
        (logger.info if self._traced is not None else logger.warning)("curvature products: %s", self.route)

    def require(self, kind: str) -> None:
        """Refuse what the examination of the prepared model found wrong.

        Args:
            kind: ``"gradient"``, or one of :data:`KINDS`.

        Raises:
            UserError: names the layer.
        """
        if kind == "ggn" and self._examination is not None:
            examination, self._examination = self._examination, None
            products = examination.plain_gauss_newton
            if self._traced is not None:
                products = partial(self._gauss_newton_in_float64, self._traced, examination)
            if examination.gauss_newton(products) is False:
                self._refusals["ggn"] = UserError(
                    "products with the Gauss-Newton matrix differ from differences of the outputs: an operation of the "
                    "model has a wrong second derivative; write it with torch's own operations"
                )
        for name in ("gradient", kind):
            if name in self._refusals:
                raise self._refusals[name]

    def quadratic_forms(self, batches: Iterable[WeightedBatch], vector: Tensor) -> Tensor:
        r""":math:`v' \nabla_w^2 \ell_i v` of every sample, shape (n,), in float64."""
        self.require_parameters()
        batches = list(batches)
        self.prepare(batches[0])
        self.require("hessian")
        names = {id(p): n for n, p in self.module.named_parameters()}
        keys = [names[id(p)] for p in self.parameters]

        def forward(parameters: Sequence[Tensor], x: Tensor) -> Tensor:
            with buffers_kept(self.module):
                inside = dict(zip(keys, parameters, strict=True))
                return torch.func.functional_call(self.module, inside, (x,))

        def product(batch: WeightedBatch, v: Tensor) -> Tensor:
            return Products(self, [batch], "hessian", 0)(v)

        return quadratic_forms(forward, self.parameters, batches, self.loss, vector, product)

    def gradient_sum(self, batches: Iterable[WeightedBatch]) -> Tensor:
        r""":math:`\sum_i a_i \nabla_w \ell_i`, flat (k,)."""
        return Products(self, batches, "hessian", 0).gradient_sum()

    def _judge(self, examination: Examination, traced: Traced | None) -> None:
        """Take the route that the witness confirms, or remember why there is none."""
        in_use = partial(self._in_float64, self._traced) if self._traced is not None else examination.plain
        try:
            verdict = examination.verdict(in_use)
        except (RuntimeError, UserError) as error:  # no second derivative: products will say so
            logger.debug("second derivatives were not examined: %s", first_line(error))
            verdict = examination.verdict(None)
        if verdict.gradient is False:
            self._surrogate(examination)
        if self._refusals or (verdict.gradient is not False and not examination.faithful(verdict)):
            return
        self._examination = examination if verdict.gradient else None
        if verdict.product is not False and verdict.symmetric:
            if verdict.product is None and verdict.gradient is None and examination.exact:
                self._refuse(examination, examination.culprit().wrong_product(leaves=True), None)
            return
        if traced is not None and self._traced is None:
            other = examination.verdict(partial(self._in_float64, traced))
            if other.product and other.symmetric:
                self._traced = traced
                logger.info("double backward of the model is wrong: the traced products agree with differences")
                return
        self._refuse(examination, examination.culprit().wrong_product(), verdict)

    def _surrogate(self, examination: Examination) -> None:
        """The gradient is not the derivative of the loss: say so, and refuse it if a function is to blame."""
        call, mistaken = examination.culprit().wrong_gradient()
        where = "the loss" if call is None else call.told
        if mistaken:
            self._refusals["gradient"] = UserError(
                f"the gradient of {where} is not the derivative of what it computes: correct its backward, or take the "
                "parameters up to it out of scope with parameters="
            )
        else:
            logger.warning(
                "the gradient of %s is not the derivative of what it computes (a straight-through estimator, or "
                "detach): gradients and curvature are those that training sees, not those of the loss",
                where,
            )

    def _refuse(self, examination: Examination, call: Call | None, verdict: Verdict | None) -> None:
        if call is None and verdict is None:
            return
        where = "the model" if call is None else call.told
        if call is None and verdict is not None and examination.loss_is_wrong():
            where = "the loss"
        how = "differ from differences of its gradients"
        if verdict is not None:
            how = (
                f"differ by {verdict.error:.1%} from differences of gradients" if verdict.error else "are not symmetric"
            )
        self._refusals["hessian"] = UserError(
            f"the second derivative of {where} is wrong: products with the Hessian {how}; write it with torch's own "
            "operations (a backward may save inputs and outputs, nothing between), or take the parameters up to it "
            "out of scope with parameters="
        )

    def _in_float64(
        self, traced: Traced, loss: PerSampleLoss, batch: WeightedBatch, vector: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradient and product of a traced model."""
        with twice_differentiable():
            run = Run(traced, self.parameters, loss, "hessian", torch.float64)
            run.push(vector)
            made = run.residuals(batch)
            run.take(made.gradient)
            run.add(run.multiply(made))
            return run.gradient(), run.pull(first=True)

    def _gauss_newton_in_float64(self, traced: Traced, examination: Examination, vector: Tensor) -> Tensor:
        with twice_differentiable():
            run = Run(traced, self.parameters, self.loss, "ggn", torch.float64)
            run.push(vector)
            run.add(run.multiply(run.residuals(examination.batch)))
            return run.pull(first=True)


class Run:
    """A traced model at the weights as they are now; gradients and products from batches."""

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
            return tuple(made[n] for n in order)  # not self.order: a cycle would keep the graph until it is collected

        self.prologue = Smooth([id(t) in wanted for t in traced.sources.values()], prologue)
        made, self.state = self.prologue.forward(*sources.values())
        self.gradients = {n: torch.zeros_like(t) for n, t in zip(self.order, made, strict=True)}
        self.changes = {n: torch.zeros_like(t) for n, t in self.gradients.items()}

    def residuals(self, batch: WeightedBatch, lean: bool = False) -> Residuals:
        """Forward and, for a Hessian, backward.

        Args:
            lean: leave out what only the gradient by direct parameters needs, which a single product does not.
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
            gradient = self.traced.body.backward(states, {self.traced.result: _present(g)}, unwanted)
        return Residuals(states, head, state, gradient)

    def take(self, gradient: dict[str, Tensor]) -> None:
        """Add a batch to the gradient."""
        _accumulate(self.gradients, gradient)

    def gradient(self) -> Tensor:
        """From all batches so far: flat (k,), float64."""
        return self._collect(self.prologue.backward(self.state, list(self.gradients.values())))

    def push(self, vector: Tensor) -> None:
        """Start a product: the tangents of what the body needs, from v."""
        pieces = dict(
            zip(
                [self.position.get(id(p)) for p in self.parameters],
                split(vector.double(), self.parameters),
                strict=True,
            )
        )
        self.along = [pieces[i] if on else None for i, on in enumerate(self.prologue.active)]
        tangents = self.prologue.forward_tangent(self.state, self.along)
        self.tangents = {n: self._as_used(n, t) for n, t in zip(self.order, tangents, strict=True)}
        for t in self.changes.values():
            t.zero_()

    def multiply(self, kept: Residuals) -> dict[str, Tensor]:
        """One batch of the product."""
        body, result = self.traced.body, self.traced.result
        u_dot = body.forward_tangent(kept.states, self.tangents)[result]
        slope = kept.loss.forward_tangent(kept.loss_state, [u_dot])
        (g_dot,) = kept.loss.backward_tangent(kept.loss_state, torch.zeros_like(slope))
        return body.backward_tangent(kept.states, {result: _present(g_dot)})

    def add(self, change: dict[str, Tensor]) -> None:
        """Add a batch to the product."""
        _accumulate(self.changes, change)

    def pull(self, first: bool) -> Tensor:
        """Finish a product: flat (k,), float64. The ``first`` one learns the gradient after its tangents were made."""
        if first and self.kind == "hessian":
            self.prologue.backward(self.state, list(self.gradients.values()))
            self.prologue.forward_tangent(self.state, self.along)
        return self._collect(self.prologue.backward_tangent(self.state, list(self.changes.values())))

    def _as_used(self, name: str, tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            tensor = tensor.to(self.dtype)
        if tensor.ndim == 4 and name in self.traced.convolution_weights:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return tensor

    def _collect(self, by_source: Sequence[Tensor | None]) -> Tensor:
        pieces = []
        for p in self.parameters:
            found = by_source[self.position[id(p)]] if id(p) in self.position else None
            pieces.append(torch.zeros_like(p, dtype=torch.float64) if found is None else found)
        return flat(pieces)


class Products:
    """Products with the sum of Hessians (or Gauss-Newton matrices) of fixed batches, at the weights as they are.

    Args:
        budget: bytes that residuals may take; with 0, every product is made as if it were the only one.
    """

    def __init__(self, engine: SecondOrder, batches: Iterable[WeightedBatch], kind: str, budget: int) -> None:
        choose("kind of curvature", kind, KINDS)
        self.engine, self.kind, self.budget = engine, kind, budget
        self.batches = list(batches)
        self.kept: dict[int, Residuals] = {}
        self.kept_bytes = 0
        self._lock = Lock()
        self._run: Run | None = None

    def gradient_sum(self) -> Tensor:
        """The gradient of the same batches, flat (k,), float64."""
        engine, run = self.engine, self._start("gradient")
        if run is None:
            return gradient_sum(engine.module, engine.parameters, self.batches, engine.loss)
        for gradient in in_threads(lambda batch: run.residuals(batch).gradient, self.batches, run.device):
            run.take(gradient)
        return run.gradient()

    def __call__(self, vector: Tensor) -> Tensor:
        """(k,) to (k,), in float64."""
        engine = self.engine
        if self._run is not None and (engine.stale or self._run.traced is not engine._traced):
            self.close()
        first = self._run is None
        run = self._run or self._start(self.kind)
        if run is None:
            route = hvp_sum if self.kind == "hessian" else ggn_sum
            return route(engine.module, engine.parameters, self.batches, engine.loss, vector)

        def multiply(i: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
            made = self.kept.get(i) or run.residuals(self.batches[i], lean=not self.budget)
            change, gradient = run.multiply(made), made.gradient
            if first and self.budget:
                self._keep(i, made)
            return change, gradient

        try:
            with twice_differentiable(written_out=False):  # the traced operations see to it themselves
                run.push(vector)
                for change, gradient in in_threads(multiply, range(len(self.batches)), run.device):
                    run.add(change)
                    if first:
                        run.take(gradient)
                product = run.pull(first)
        except BaseException:
            self.close()  # of a first product cut short, the gradient is incomplete
            raise
        if self.budget:
            self._run = run
        return product

    def close(self) -> None:
        """Free what was kept."""
        self.kept.clear()
        self.kept_bytes = 0
        self._run = None

    def _start(self, kind: str) -> Run | None:
        engine = self.engine
        engine.require_parameters()
        if not self.batches:
            return None
        engine.prepare(self.batches[0])
        engine.require(kind)
        if engine._traced is None:
            return None
        return Run(engine._traced, engine.parameters, engine.loss, self.kind, engine.parameters[0].dtype)

    def _keep(self, i: int, made: Residuals) -> None:
        made.gradient = {}
        with self._lock:
            size = made.bytes()
            if self.kept_bytes + size <= self.budget:
                self.kept[i] = made
                self.kept_bytes += size


def _present(t: Tensor | None) -> Tensor:
    assert t is not None
    return t


def _accumulate(totals: dict[str, Tensor], parts: dict[str, Tensor]) -> None:
    for name, total in totals.items():
        if name in parts:
            total += parts[name]
