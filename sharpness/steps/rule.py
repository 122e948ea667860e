"""The step protocol: a rule perturbs the weights, evaluates, restores them and leaves a gradient to step with.

A rule is asked for a gradient only; the optimiser steps afterwards with it. So any rule works with any loss, and
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
from sharpness.steps.loss import Loss


class Rule(Protocol):
    """A gradient rule: fills ``.grad`` of the trainable parameters and returns the unperturbed loss, without a graph.

    A rule with the attribute ``capturable = True`` can be replayed as a CUDA graph, see ``Loss``.
    """

    def backward(self, model: nn.Module, batch: Batch, loss: Loss, context: Context) -> Tensor: ...


@runtime_checkable
class EpochRule(Protocol):
    """A rule that is made for every epoch from the network as it is before it.

    ``batches`` are as many training batches as the epoch has, made in the same way and drawn apart from them.
    """

    def for_epoch(self, model: nn.Module, batches: Iterator[Batch], context: Context) -> Rule: ...


@dataclass(frozen=True)
class PlainStep:
    """The gradient of the loss where the weights stand: ordinary SGD."""

    capturable = True

    def backward(self, model: nn.Module, batch: Batch, loss: Loss, context: Context) -> Tensor:
        value = loss.of(model, batch, context)
        value.backward()
        return value.detach()
