"""Building blocks of SAM-like gradient rules: perturb the weights, differentiate, restore."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

from sharpness.engine.undisturbed import uncompiled
from sharpness.errors import UserError
from sharpness.steps import (
    Batch,
    Context,
    Gradient,
    Loss,
    PlainStep,
    SameNumbers,
    Shards,
    add_to_grad,
    differentiate,
    frozen_running_statistics,
    gradient_of,
    joint_norm,
    perturbed,
    trainable,
    twice,
)
from sharpness.steps.differentiation import Function


class Passes:
    """The passes of one step: all use the same random numbers, and only the first updates running statistics.

    ``.grad`` is None when a step begins; the optimiser uses the sum of the gradients that the passes add to it.
    ``start``, ``descend`` and ``over`` take a batch or ``Shards``, and return values and gradients of the whole batch.
    """

    def __init__(self, model: nn.Module, context: Context) -> None:
        self.parameters = trainable(model)
        self._model, self._context = model, context
        self._numbers, self._first = SameNumbers(context.generator), True

    @contextmanager
    def at(self, perturbation: Gradient | None = None) -> Iterator[None]:
        """A context for the forward and backward pass of a single batch, with weights moved by ``perturbation``."""
        self._numbers.again()
        statistics = nullcontext() if self._first else frozen_running_statistics(self._model)
        self._first = False
        moved = perturbation or {}
        with perturbed([self.parameters[name] for name in moved], list(moved.values())), statistics:
            yield

    def over(
        self, batch: Batch | Shards, function: Function, perturbation: Gradient | None = None
    ) -> tuple[Tensor, list[Gradient]]:
        """Return the value of a batch, detached, and the gradients of scalars, with weights moved by ``perturbation``.

        Args:
            function: maps a batch, or one of its shards, and a context to a value and any number of scalars.
        """
        self._numbers.include(*(inside.generator for _, inside in batch.parts(self._context)))
        with self.at(perturbation):
            return differentiate(self._model, batch, self._context, function)

    def start(self, loss: Loss, batch: Batch | Shards) -> tuple[Tensor, Gradient]:
        """Return the loss of a batch, detached, and its gradient, both at the unperturbed weights."""
        value, (gradient,) = self.over(batch, twice(loss, self._model))
        return value, gradient

    def descend(
        self, loss: Loss, batch: Batch | Shards, perturbation: Gradient | None = None, scale: float = 1.0
    ) -> Tensor:
        """Add ``scale`` times the gradient at weights moved by ``perturbation`` to ``.grad``; return the loss there."""
        value, (gradient,) = self.over(batch, twice(loss, self._model, scale), perturbation)
        self.add(gradient)
        return value

    def add(self, gradient: Gradient) -> None:
        """Add a gradient to ``.grad``."""
        add_to_grad(self.parameters, gradient)

    def gradient(self, value: Tensor, retain_graph: bool = False) -> Gradient:
        """Return the gradient of a scalar w.r.t. the trainable parameters it depends on; ``.grad`` is unchanged."""
        return gradient_of(value, self.parameters, retain_graph)


def ascent(gradient: Gradient, rho: float) -> Gradient:
    """Return ``rho g / (|g| + 1e-12)``, the step of length rho uphill; the norm is over all parameters."""
    size = rho / (joint_norm(gradient.values()) + 1e-12)
    return {name: g * size for name, g in gradient.items()}


def reweighted(loss: Loss, model: nn.Module, batch: Batch, context: Context, *factors: Tensor) -> tuple[Tensor, ...]:
    r"""Return the loss of a batch with the terms of each class multiplied by a factor, for each of ``factors`` (C,).

    All values share one forward pass. If the loss is :math:`\sum_i a_i \ell_i / \sum_i a_i + R`, where R is the part of
    a method's loss without labels, the values are :math:`\sum_i f_{y_i} a_i \ell_i / \sum_i a_i + R`.

    Raises:
        UserError: the loss of the batch is not an average of labelled terms.
    """
    values = loss.of(model, batch, replace(context, factors=torch.stack(factors)))
    if values.shape != (len(factors),):
        raise UserError(
            f"the loss {type(loss).__name__} is no average of labelled terms, so that its classes cannot be "
            "reweighted: take a flattening operation that differentiates it as it is, such as sam"
        )
    return values.unbind()


def sharpen_part(
    model: nn.Module,
    batch: Batch | Shards,
    loss: Loss,
    context: Context,
    factor: Tensor,
    rho: float,
    scale: float = 1.0,
) -> Tensor:
    r"""Apply sharpness-aware minimisation to a part of the loss, as ImbSAM and Focal-SAM do.

    .. code-block:: text

        L = the loss;  F = its labelled terms, those of class c multiplied by factor_c, normalised like L
        g   = gradient of F at w
        eps = rho * g / (|g| + 1e-12)
        G   = gradient of L - F at w  +  scale * gradient of F at w + eps

    L and F share their forward pass at w, so a step costs two forward and three backward passes: 8/3 of a gradient
    if a backward pass costs two forward passes. BatchNorm makes a cheaper step impossible: through the batch
    statistics, both L and F depend on the activations of every image, so each needs its own backward pass. If the
    factors of all labels of a batch are 0, the step is a plain one.

    Returns:
        L at w, detached.
    """
    if not factor[batch.labels()].any():
        return PlainStep().backward(model, batch, loss, context)
    ones = torch.ones_like(factor)

    def parts(batch: Batch, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        whole, part, rest = reweighted(loss, model, batch, context, ones, factor, 0 * ones)
        return whole, part - rest, whole - (part - rest)

    def tail(batch: Batch, context: Context) -> tuple[Tensor, Tensor]:
        whole, part, _ = parts(batch, context)
        return whole, scale * part

    passes = Passes(model, context)
    with uncompiled():  # compiled code may free what the second of two backward passes needs
        value, (uphill, gradient) = passes.over(batch, parts)
    passes.add(gradient)
    passes.add(passes.over(batch, tail, ascent(uphill, rho))[1][0])
    return value


def positive_radius(rule: str, name: str, value: float, usual: float) -> None:
    """Raise a ``UserError`` unless a value is finite and above 0."""
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"{name}={value}: {rule} needs a positive radius, usually {usual:g}")


def not_negative(rule: str, name: str, value: float) -> None:
    """Raise a ``UserError`` unless a value is finite and at least 0."""
    if not (math.isfinite(value) and value >= 0):
        raise UserError(f"{name}={value}: {rule} needs a finite number, at least 0")
