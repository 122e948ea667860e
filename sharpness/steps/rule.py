"""The step protocol: a rule perturbs the weights, evaluates, restores them and leaves a gradient to step with.

A rule computes a gradient only; the optimiser steps with it afterwards. So any rule works with any loss, and
with any optimiser, and a new variant of sharpness-aware minimisation is about thirty lines: it says where the weights
go and what is differentiated there, in the terms of ``sharpness/flattening/passes.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from sharpness.steps.batch import Batch
from sharpness.steps.context import Context
from sharpness.steps.differentiation import add_to_grad, differentiate, trainable, twice
from sharpness.steps.loss import Loss
from sharpness.steps.shards import Shards


class Rule(Protocol):
    """A gradient rule: fills ``.grad`` of the trainable parameters and returns the unperturbed loss, without a graph.

    A rule with the attribute ``capturable = True`` can be replayed as a CUDA graph, see ``Loss``. One with
    ``sharded = True`` also takes ``Shards`` for a batch: it differentiates by ``Passes`` or ``differentiate``, whose
    gradients are those of all shards and all processes.
    """

    def backward(self, model: nn.Module, batch: Batch | Shards, loss: Loss, context: Context) -> Tensor: ...


@runtime_checkable
class EpochRule(Protocol):
    """A rule that is made for every epoch from the network as it is before it.

    ``batches`` are as many training batches as the epoch has, made in the same way and drawn apart from them.
    """

    def for_epoch(self, model: nn.Module, batches: Iterator[Batch | Shards], context: Context) -> Rule: ...


@dataclass(frozen=True)
class PlainStep:
    """The gradient of the loss where the weights stand: ordinary SGD."""

    capturable = True
    sharded = True

    def backward(self, model: nn.Module, batch: Batch | Shards, loss: Loss, context: Context) -> Tensor:
        value, (gradient,) = differentiate(model, batch, context, twice(loss, model))
        add_to_grad(trainable(model), gradient)
        return value
