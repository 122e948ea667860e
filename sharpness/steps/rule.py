"""The protocol of rules: a rule perturbs the weights, evaluates, restores them and leaves a gradient in ``.grad``.

A rule only computes a gradient; the optimiser then makes the step. Any rule therefore works with any loss and any
optimiser. A new variant of sharpness-aware minimisation takes about thirty lines, which state where the weights are
moved and what is differentiated there, with the helpers of ``sharpness/flattening/passes.py``.
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

    A rule with the attribute ``capturable = True`` can be replayed as a CUDA graph, see ``Loss``. A rule with
    ``sharded = True`` also accepts ``Shards`` as a batch: it differentiates with ``Passes`` or ``differentiate``, whose
    gradients cover all shards and all processes.
    """

    def backward(self, model: nn.Module, batch: Batch | Shards, loss: Loss, context: Context) -> Tensor: ...


@runtime_checkable
class EpochRule(Protocol):
    """A rule that is made anew before every epoch, from the network at that time.

    ``batches`` are as many training batches as the epoch has, made in the same way but from separate draws.
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
