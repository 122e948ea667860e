"""Building blocks of SAM-like gradient rules: perturb the weights, differentiate, restore."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

from sharpness.errors import UserError
from sharpness.steps import (
    Batch,
    Context,
    Gradient,
    Loss,
    PlainStep,
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
    """The passes of one step: all see the same random numbers, and running statistics move only in the first.

    ``.grad`` is clear when a step begins, and what the passes add to it is the gradient of the optimiser. ``start``,
    ``descend`` and ``over`` take a batch or ``Shards``, and give values and gradients of the whole.
    """

    def __init__(self, model: nn.Module, context: Context) -> None:
        self.parameters = trainable(model)
        self._model, self._context = model, context
        self._random, self._first = {context.generator: context.generator.get_state()}, True

    @contextmanager
    def at(self, perturbation: Gradient | None = None) -> Iterator[None]:
        """A context for one forward and backward pass of a single batch, with weights moved by ``perturbation``."""
        for generator, state in self._random.items():
            generator.set_state(state)
        statistics = nullcontext() if self._first else frozen_running_statistics(self._model)
        self._first = False
        moved = perturbation or {}
        with perturbed([self.parameters[name] for name in moved], list(moved.values())), statistics:
            yield

    def over(
        self, batch: Batch | Shards, function: Function, perturbation: Gradient | None = None
    ) -> tuple[Tensor, list[Gradient]]:
        """The value of a batch, without a graph, and gradients of scalars, with weights moved by ``perturbation``.

        Args:
            function: from a batch, or one shard of it, and its context to a value and any number of scalars.
        """
        for _, inside in batch.parts(self._context):
            self._random.setdefault(inside.generator, inside.generator.get_state())
        with self.at(perturbation):
            return differentiate(self._model, batch, self._context, function)

    def start(self, loss: Loss, batch: Batch | Shards) -> tuple[Tensor, Gradient]:
        """The loss of a batch, without a graph, and its gradient, both at the unperturbed weights."""
        value, (gradient,) = self.over(batch, twice(loss, self._model))
        return value, gradient

    def descend(
        self, loss: Loss, batch: Batch | Shards, perturbation: Gradient | None = None, scale: float = 1.0
    ) -> Tensor:
        """Add ``scale`` times the gradient at weights moved by ``perturbation`` to the step; return the loss there."""
        value, (gradient,) = self.over(batch, twice(loss, self._model, scale), perturbation)
        self.add(gradient)
        return value

    def add(self, gradient: Gradient) -> None:
        """Add a gradient to the step."""
        add_to_grad(self.parameters, gradient)

    def gradient(self, value: Tensor, retain_graph: bool = False) -> Gradient:
        """The gradient of a scalar by the trainable parameters it depends on; ``.grad`` stays as it is."""
        return gradient_of(value, self.parameters, retain_graph)


def ascent(gradient: Gradient, rho: float) -> Gradient:
    """``rho g / (|g| + 1e-12)`` with one norm over all parameters: the step uphill of length rho."""
    size = rho / (joint_norm(gradient.values()) + 1e-12)
    return {name: g * size for name, g in gradient.items()}


def reweighted(loss: Loss, model: nn.Module, batch: Batch, context: Context, *factors: Tensor) -> tuple[Tensor, ...]:
    r"""The loss of a batch with the terms of every class multiplied by a factor, for each of ``factors`` (C,).

    One forward pass serves all. With the loss :math:`\sum_i a_i \ell_i / \sum_i a_i + R`, where R is what a method adds
    to its labelled terms, the values are :math:`\sum_i f_{y_i} a_i \ell_i / \sum_i a_i + R`.

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
    r"""Sharpness-aware minimisation of a part of the loss: the skeleton of ImbSAM and Focal-SAM.

    .. code-block:: text

        L = the loss;  F = its labelled terms, those of class c multiplied by factor_c, normalised as L is
        g   = gradient of F at w
        eps = rho * g / (|g| + 1e-12)
        G   = gradient of L - F at w  +  scale * gradient of F at w + eps

    L and F share their forward pass at w, so a step costs two forward and three backward passes: 8/3 of a gradient
    where a backward pass costs two forward ones. Less is not possible with BatchNorm: L and F need one backward pass
    each, because through the batch's statistics every image's activations have a part in both. A batch in which all
    factors are 0 is a plain step.

    Returns:
        L at w, without a graph.
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
    value, (uphill, gradient) = passes.over(batch, parts)
    passes.add(gradient)
    passes.add(passes.over(batch, tail, ascent(uphill, rho))[1][0])
    return value


def positive_radius(rule: str, name: str, value: float, usual: float) -> None:
    """Refuse a value that is not finite and above 0, with a ``UserError``."""
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"{name}={value}: {rule} needs a positive radius, usually {usual:g}")


def not_negative(rule: str, name: str, value: float) -> None:
    """Refuse a value that is not finite and at least 0, with a ``UserError``."""
    if not (math.isfinite(value) and value >= 0):
        raise UserError(f"{name}={value}: {rule} needs a finite number, at least 0")
