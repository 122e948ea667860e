"""Products of vectors with the curvature of some batches; computations shared by all products are cached."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from threading import Lock

import torch
from torch import Tensor

from sharpness.engine.class_sums import WeightedBatch
from sharpness.engine.diagonal import ExactTraces
from sharpness.engine.double_backward import (
    ggn_sum,
    gradient_sum,
    hvp_sum,
    quadratic_forms,
    twice_differentiable,
)
from sharpness.engine.modules import buffers_kept
from sharpness.engine.program import Untraceable
from sharpness.engine.second_order import KINDS, SecondOrder
from sharpness.engine.stateless import called_with
from sharpness.engine.threads import in_threads
from sharpness.engine.traced_run import Tape, TracedRun
from sharpness.engine.tracing import first_line
from sharpness.errors import choose

#: Largest relative difference of squared norms of derivatives in float32.
TRUSTED_SQUARES = 1e-3


class Products:
    """Products with the sum of Hessians (or Gauss-Newton matrices) of fixed batches, at the current weights.

    Tapes of batches are kept as long as they fit into the budget. Those of other batches are recorded again in every
    product, which costs an additional forward and backward pass. Sums are accumulated in float64.

    Args:
        engine: derivatives of the model.
        batches: inputs, targets and weights.
        kind: ``"hessian"`` or ``"ggn"``.
        budget: bytes that tapes may use; 0 keeps none.
    """

    def __init__(
        self, engine: SecondOrder, batches: Iterable[WeightedBatch], kind: str = "hessian", budget: int = 0
    ) -> None:
        choose("kind of curvature", kind, KINDS)
        self.engine, self.kind, self.budget = engine, kind, budget
        # A sequence may read its batches from disk: each one is loaded when it is needed.
        self.batches = batches if isinstance(batches, Sequence) else list(batches)
        self.kept: dict[int, Tape] = {}
        self.kept_bytes = 0
        self._lock = Lock()
        self._run: TracedRun | None = None

    def gradient_sum(self) -> Tensor:
        """Return the gradient of the same batches, flat (k,), in float64; later products reuse its tapes."""
        if self.kind != "hessian":  # the tapes have no gradient
            return Products(self.engine, self.batches).gradient_sum()
        engine, run = self.engine, self._start("gradient")
        if run is None:
            return gradient_sum(engine.module, engine.parameters, self.batches, engine.loss)

        def record(i: int) -> dict[str, Tensor]:
            made = run.record(self.batches[i])
            gradient = made.gradient
            if self.budget:
                self._keep(i, made)
            return gradient

        self.close()
        # Products reuse the tapes, for which fused attention has no second derivative.
        with self._whole(run), twice_differentiable(written_out=False) if self.budget else nullcontext():
            for gradient in in_threads(record, range(len(self.batches)), run.device):
                run.take(gradient)
        return run.gradient()

    def quadratic_forms(self, vector: Tensor) -> Tensor:
        r"""Return :math:`v' \nabla_w^2 \ell_i v` for every sample, shape (n,), in float64."""
        if self.kind != "hessian":
            return Products(self.engine, self.batches).quadratic_forms(vector)
        engine = self.engine
        self._renew()
        engine.require_parameters()
        engine.prepare(self.batches[0])
        engine.require("hessian")
        if engine.forms is None:
            engine.forms = self._choose(vector)
        return self._forms(engine.forms or "forward", vector)

    def traces(
        self, units: Sequence[Tensor] | None = None, head: Sequence[int] = (), most: int | None = None
    ) -> tuple[Tensor, list[int], int]:
        r"""Return the exact trace of :math:`\nabla_w^2 \ell_i` of every sample by parameter: see ``diagonal.py``.

        Args:
            units: the unit of every parameter's coordinates, with the shapes of the parameters; None for 1.
            head: places of the parameters that may be left out, as those of a head after the split.
            most: largest number of backward passes; None for any number.

        Returns:
            The traces of the blocks of all parameters, (n, P), in float64; the places of the parameters that they leave
            out, all of ``head`` or none; and the number of backward passes, at most.

        Raises:
            Untraceable: the network is not piecewise linear in every other parameter, or it takes more passes.
        """
        engine, run = self.engine, self._start("hessian")
        if run is None:
            raise Untraceable(f"the network is not traced: {engine.route}")
        exact = ExactTraces(run.traced, run.parameters, run.loss, run.shared, units)
        names = {id(t): n for n, t in run.traced.sources.items()}
        left = [i for i, p in enumerate(run.parameters) if names.get(id(p)) in exact.split.rest]
        if left and left != list(head):
            raise Untraceable(f"{exact.split.obstacle} is not piecewise linear in every parameter")
        passes = exact.width(self.batches[0][0][:1])
        if most is not None and passes > most:
            raise Untraceable(f"it takes {passes} backward passes")
        try:
            self._compare(exact, units, left)
            with twice_differentiable():
                found = torch.cat(list(in_threads(exact, self.batches, run.device)))
        except (RuntimeError, NotImplementedError) as error:  # an operation that vmap has no rule for, for example
            raise Untraceable(first_line(error)) from error
        return found, left, passes

    def _compare(self, exact: ExactTraces, units: Sequence[Tensor] | None, left: Sequence[int]) -> None:
        """Compare derivatives of two samples, taken apart from a common pass, with those of each sample alone.

        Raises:
            Untraceable: they differ.
        """
        engine = self.engine
        x = self.batches[0][0][:2]
        with torch.no_grad(), buffers_kept(engine.module):
            outputs = engine.module(x)
        direction = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0)).to(outputs)
        chosen = [i for i in range(len(engine.parameters)) if i not in left]
        squares = []
        for one, r in zip(x.split(1), direction.split(1), strict=True):
            with torch.enable_grad(), buffers_kept(engine.module):
                slopes = torch.autograd.grad(
                    (engine.module(one) * r).sum(), [engine.parameters[i] for i in chosen], allow_unused=True
                )
            scaled = [
                s if units is None else s * units[i] for i, s in zip(chosen, slopes, strict=True) if s is not None
            ]
            squares.append(sum(s.double().square().sum() for s in scaled))
        expected = torch.stack([torch.as_tensor(s) for s in squares])
        found = exact.squared_slopes(x, direction)
        if not bool((found - expected).abs().max() <= TRUSTED_SQUARES * expected.max()):
            raise Untraceable("its derivatives of single samples differ between a pass of two samples and one of each")

    def _forms(self, how: str, vector: Tensor) -> Tensor:
        engine = self.engine
        if how == "tapes":
            return self._forms_of_tapes(vector)
        each = (lambda batch, v: Products(engine, [batch])(v)) if how == "products" else None
        return quadratic_forms(self._forward, engine.parameters, self.batches, engine.loss, vector, each)

    def _forms_of_tapes(self, vector: Tensor) -> Tensor:
        run = self._run or self._start(self.kind)
        if run is None:
            raise Untraceable("there is no trace")

        def forms(i: int) -> Tensor:
            tape = self.kept.get(i) or run.record(self.batches[i], lean=True)
            return run.forms(tape) / self.batches[i][2].double()

        with twice_differentiable(written_out=False):
            run.push(vector)
            run.bend()
            return torch.cat(list(in_threads(forms, range(len(self.batches)), run.device)))

    def _forward(self, parameters: Sequence[Tensor], x: Tensor) -> Tensor:
        """Return the outputs as a function of the parameters, for forward-mode derivatives."""
        engine, traced = self.engine, self.engine.traced
        named = engine.module.named_parameters() if traced is None else traced.sources.items()
        names = {id(p): n for n, p in named}
        inside = {names[id(p)]: moved for p, moved in zip(engine.parameters, parameters, strict=True) if id(p) in names}
        if traced is not None:
            # With folded BatchNorm: torch decomposes its second forward derivative into dozens of small operations.
            return traced.values(traced.sources | inside, x)[traced.result]
        with buffers_kept(engine.module):
            return called_with(engine.module, inside, (x,))

    def _choose(self, vector: Tensor) -> str | None:
        """Return the first method for forms that agrees with products of two single samples; None if all are zero.

        Torch has no second forward derivative of some operations, and a wrong one of others (``layer_norm`` and
        ``instance_norm`` in torch 2.13). The direction is v plus one power iteration, for which terms do not cancel.
        """
        x, y, a = self.batches[0]
        few = Products(self.engine, [(x[:2], y[:2], torch.ones_like(a[:2]))])
        v, bent = vector.double(), few(vector)
        probe = (v / max(float(v.norm()), 1e-300) + bent / max(float(bent.norm()), 1e-300)).to(vector.dtype)
        alone = zip(*(t.split(1) for t in few.batches[0]), strict=True)
        terms = torch.stack([probe.double() * Products(self.engine, [one])(probe) for one in alone])
        expected, size = terms.sum(1), terms.abs().sum()
        if not size:
            return None
        for how in ("tapes", "forward"):
            try:
                off = (few._forms(how, probe) - expected).abs().max()
            except (RuntimeError, Untraceable):
                continue
            if off <= torch.finfo(vector.dtype).eps ** 0.5 * size:
                return how
        return "products"

    def __call__(self, vector: Tensor) -> Tensor:
        """Return the product with a vector, (k,) to (k,), in float64."""
        engine = self.engine
        self._renew()
        first = self._run is None
        run = self._run or self._start(self.kind)
        if run is None:
            route = hvp_sum if self.kind == "hessian" else ggn_sum
            return route(engine.module, engine.parameters, self.batches, engine.loss, vector)

        def multiply(i: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
            made = self.kept.get(i) or run.record(self.batches[i], lean=not self.budget)
            change, gradient = run.multiply(made), made.gradient
            if first and self.budget:
                self._keep(i, made)
            return change, gradient

        with self._whole(run), twice_differentiable(written_out=False):  # traced operations use the formulas themselves
            run.push(vector)
            for change, gradient in in_threads(multiply, range(len(self.batches)), run.device):
                run.add(change)
                if first:
                    run.take(gradient)
            return run.pull(first)

    @contextmanager
    def _whole(self, run: TracedRun) -> Iterator[None]:
        """Keep a run for later products after a full pass over all batches; otherwise its gradient is incomplete."""
        try:
            yield
        except BaseException:
            self.close()
            raise
        if self.budget:
            self._run = run

    def close(self) -> None:
        """Free the tapes."""
        self.kept.clear()
        self.kept_bytes = 0
        self._run = None

    def _renew(self) -> None:
        """Drop the tapes if the trace is no longer that of the model."""
        if self._run is not None and (self.engine.stale or self._run.traced is not self.engine.traced):
            self.close()

    def _start(self, kind: str) -> TracedRun | None:
        engine = self.engine
        engine.require_parameters()
        if not self.batches:
            return None
        engine.prepare(self.batches[0])
        engine.require(kind)
        if engine.traced is None:
            return None
        return TracedRun(engine.traced, engine.parameters, engine.loss, self.kind, engine.parameters[0].dtype)

    def _keep(self, i: int, made: Tape) -> None:
        made.gradient = {}  # only needed once, for the sum over all batches
        with self._lock:
            size = made.bytes()
            if self.kept_bytes + size <= self.budget:
                self.kept[i] = made
                self.kept_bytes += size
