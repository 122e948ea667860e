r"""Choice of the cheapest exact method for gradients and curvature products of :math:`\sum_i a_i \ell(f_w(x_i), y_i)`.

A model is traced once, with BatchNorm folded, and the trace is compared with double backward on a few samples in
float64. If the model cannot be traced, or if they differ, double backward is used. A model whose derivatives are wrong
is refused.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sharpness.engine.class_sums import PerSampleLoss, WeightedBatch
from sharpness.engine.culprit import Call
from sharpness.engine.double_backward import twice_differentiable
from sharpness.engine.examination import Examination
from sharpness.engine.program import Traced, Untraceable
from sharpness.engine.stateless import SWAPPING
from sharpness.engine.traced_run import TracedRun
from sharpness.engine.tracing import first_line, structure, trace
from sharpness.engine.witness import Verdict
from sharpness.errors import UserError

KINDS = ("hessian", "ggn")
#: Largest relative difference from double backward, in float64, at which a trace is trusted.
TRUSTED = 1e-6
#: Number of samples on which a model is examined.
SAMPLES = 4
logger = logging.getLogger("sharpness")


class SecondOrder:
    """The derivatives of one model, which is traced at the first use; the trace is valid for any data and any vector.

    Args:
        module: module from inputs to outputs, in eval mode.
        parameters: parameters to differentiate by.
        loss: function from outputs and labels to losses (n,).

    Attributes:
        traced: the model as a program; None if it cannot be traced.
        forms: method for second derivatives of single samples along a vector; None until one has been chosen.
    """

    def __init__(self, module: nn.Module, parameters: Sequence[Tensor], loss: PerSampleLoss) -> None:
        self.module = module
        self.parameters = list(parameters)
        self.loss = loss
        self.traced: Traced | None = None
        self.forms: str | None = None
        self._structure: list[Any] = []
        self._reason: str | None = None
        self._refusals: dict[str, UserError] = {}
        self._examination: Examination | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the model without its trace: another process makes its own."""
        return SecondOrder, (self.module, self.parameters, self.loss)

    @property
    def stale(self) -> bool:
        """True if the model's structure, such as the scale of its head, has changed since it was traced."""
        judged = self.traced is not None or bool(self._refusals)
        return judged and structure(self.module) != self._structure

    @property
    def route(self) -> str:
        """A description of how products are computed, in one line."""
        if self.traced is not None:
            return "traced, BatchNorm folded, activations kept"
        return f"double backward ({self._reason or 'not traced yet'})"

    def forget(self) -> None:
        """Discard the trace of the model and its examination, which is only valid at certain weights."""
        self.traced = self.forms = self._reason = self._examination = None
        self._refusals = {}

    def is_traced(self, batch: WeightedBatch) -> bool:
        """True if derivatives come from a trace, which never changes the module; decided on a few of these samples."""
        self.require_parameters()
        self.prepare(batch)
        return self.traced is not None

    def require_parameters(self) -> None:
        """Refuse a model whose parameters were replaced.

        Raises:
            UserError: some parameters were replaced.
        """
        with SWAPPING:
            present = {id(p) for p in self.module.parameters()}
        if any(id(p) not in present for p in self.parameters):
            raise UserError(
                "the model's parameters were replaced by others (a new layer, or load_state_dict with assign=True): "
                "build the Objective again"
            )

    def prepare(self, batch: WeightedBatch) -> None:
        """Trace the model, again only if its structure has changed, and choose a route with correct products.

        On a few samples, in float64, products of the trace are compared with double backward, and those that will be
        used with differences of gradients (``witness.py``).
        """
        if self.stale:
            self.traced, self.forms, self._refusals = None, None, {}
        elif self.traced is not None or self._reason is not None or self._refusals:
            return
        self._structure = structure(self.module)
        few = tuple(t[:: -(-len(t) // SAMPLES)] for t in batch)
        traced, route, examination = None, None, None
        try:
            examination = Examination(self.module, self.parameters, self.loss, few)  # type: ignore[arg-type]
            with twice_differentiable():
                traced = trace(self.module, batch[0][:2], self.parameters)
                route = _InFloat64(traced, self.parameters, examination.loss, examination.batch, "hessian")
                difference = examination.difference(route, examination.plain)
            # NaN means that weights or inputs are not finite, and says nothing about the model. It is examined again
            # with the next batch.
            if math.isnan(difference):
                return
            if not difference <= TRUSTED:
                raise Untraceable(f"traced, it differs from double backward by {difference:.1e}")
            # A module that counts its calls would look stale, and be traced again, at every product.
            if structure(self.module) != self._structure:
                traced = route = None
                raise Untraceable("its attributes change with every pass")
            self.traced = traced
        except Untraceable as error:
            self._reason = str(error)
        except Exception as error:
            self._reason = f"while tracing, {first_line(error)}"
        try:
            if examination is not None:
                self._judge(examination, route)
        except Exception as error:  # for example, operations that do not exist in float64
            logger.debug("derivatives were not examined: %s", first_line(error))
        (logger.info if self.traced is not None else logger.warning)("curvature products: %s", self.route)

    def require(self, kind: str) -> None:
        """Refuse derivatives that are wrong according to the examination of the prepared model.

        Args:
            kind: ``"gradient"``, or one of ``KINDS``.

        Raises:
            UserError: the derivatives are wrong; the message names the layer.
        """
        if kind == "ggn" and self._examination is not None:
            examination, self._examination = self._examination, None
            products = examination.plain_gauss_newton
            if self.traced is not None:
                run = _InFloat64(self.traced, self.parameters, examination.plain_loss, examination.batch, "ggn")
                products = run.product
            if examination.gauss_newton(products) is False:
                self._refusals["ggn"] = UserError(
                    "products with the Gauss-Newton matrix differ from differences of the outputs: an operation of the "
                    "model has a wrong second derivative; write it with torch's own operations"
                )
        for name in ("gradient", kind):
            if name in self._refusals:
                raise self._refusals[name]

    def _judge(self, examination: Examination, traced: _InFloat64 | None) -> None:
        """Choose the route that the witness confirms, or record a refusal."""
        try:
            verdict = examination.verdict(examination.plain if self.traced is None else traced)
        except (RuntimeError, UserError) as error:  # no second derivative: reported by the products
            logger.debug("second derivatives were not examined: %s", first_line(error))
            verdict = examination.verdict(None)
        # A gradient that intentionally differs from the slope (straight-through) is the one used in training, and
        # products are its derivatives. With checkpointing, gradients are wrong at moved weights, so that differences
        # do not allow a verdict.
        if verdict.gradient is False:
            self._surrogate(examination)
        if self._refusals or (verdict.gradient is not False and not examination.faithful(verdict)):
            return
        self._examination = examination if verdict.gradient else None
        if verdict.product is not False and verdict.symmetric:
            if verdict.product is None and verdict.gradient is None and examination.exact:
                self._refuse(examination, examination.culprit().wrong_product(leaves=True), None)
            return
        if traced is not None and self.traced is None:
            other = examination.verdict(traced)
            if other.product and other.symmetric:
                self.traced = traced.traced
                logger.info("double backward of the model is wrong: the traced products agree with differences")
                return
        self._refuse(examination, examination.culprit().wrong_product(), verdict)

    def _surrogate(self, examination: Examination) -> None:
        """Warn that the gradient is not the derivative of the loss, or refuse it if an autograd function is wrong."""
        call, mistaken = examination.culprit().wrong_gradient()
        where = "the loss" if call is None else call.description
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
        where = "the model" if call is None else call.description
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


class _InFloat64:
    """The gradient and products of a traced model on the examined samples, with tapes that are kept as in a run."""

    def __init__(
        self, traced: Traced, parameters: Sequence[Tensor], loss: PerSampleLoss, batch: WeightedBatch, kind: str
    ) -> None:
        self.traced = traced
        with twice_differentiable(written_out=False):  # traced operations use the formulas themselves
            self.run = TracedRun(traced, parameters, loss, kind, torch.float64)
            self.tape = self.run.record(batch)
            self.run.take(self.tape.gradient)
            self.gradient = self.run.gradient()

    def __call__(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        return self.gradient, self.product(vector)

    def product(self, vector: Tensor) -> Tensor:
        """Return the product with a flat vector."""
        with twice_differentiable(written_out=False):
            self.run.push(vector)
            self.run.add(self.run.multiply(self.tape))
            return self.run.pull(first=False)
