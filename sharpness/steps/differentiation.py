"""Gradients of functions of a batch, or of a batch whose shards are divided among processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sharpness.steps.batch import Batch
from sharpness.steps.context import Context
from sharpness.steps.loss import Loss
from sharpness.steps.perturbed import RunningStatistics
from sharpness.steps.shards import Shards

#: A vector in weight space, by parameter name; absent parameters have no gradient.
Gradient = dict[str, Tensor]
#: A function that a rule evaluates on a batch: it returns a value to report, then scalars to differentiate.
Function = Callable[[Batch, Context], Sequence[Tensor]]


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trained parameters of a model, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def differentiate(
    model: nn.Module, batch: Batch | Shards, context: Context, function: Function
) -> tuple[Tensor, list[Gradient]]:
    r"""Return the value of a batch, without a graph, and the gradients of scalars; ``.grad`` is left unchanged.

    Shards run forward and backward one after another. Value and gradients are those of
    :math:`\sum_s A_s f_s / \sum_s A_s`, where :math:`A_s` is the sum of the weights in the first loss that ``function``
    computes on shard s, or its number of images if there is no loss.

    Args:
        function: maps a batch and its context to a value and any number of scalars.
    """
    parameters = trainable(model)
    if not isinstance(batch, Shards):
        value, *scalars = function(batch, context)
        return value.detach(), _gradients(scalars, parameters)
    statistics, sums, values = RunningStatistics(model, len(batch.sizes)), list[Gradient](), []
    for part, inside in batch.parts(context):
        with statistics.of_shard(inside.generator):
            value, *scalars = function(part, inside)
        weight = inside.sums[0].to(value) if inside.sums else value.new_tensor(len(part))
        values.append(torch.stack([weight * value, weight]).detach())
        gradients = _gradients([weight * scalar for scalar in scalars], parameters)
        sums = [_sum(*pair) for pair in zip(sums, gradients, strict=True)] if sums else gradients
    # One sum over processes for everything. It includes whether any shard has a gradient for a parameter, because an
    # optimizer treats a missing gradient differently from zero.
    has = [values[0].new_tensor([name in g for name in parameters]) for g in sums]
    dense = [g.get(name, torch.zeros_like(p)) for g in sums for name, p in parameters.items()]
    summed = iter(batch.summed([torch.stack(values).sum(0), *statistics.moved, *has, *dense]))
    value, weight = next(summed)
    statistics.set([next(summed) for _ in statistics.moved])
    has = [next(summed) for _ in has]
    found = []
    for own, anywhere in zip(sums, has, strict=True):
        whole = {name: next(summed) / weight.to(p) for name, p in parameters.items()}
        if len(own) < len(parameters):
            whole = {name: g for (name, g), there in zip(whole.items(), anywhere.tolist(), strict=True) if there}
        found.append(whole)
    return value / weight, found


def twice(loss: Loss, model: nn.Module, scale: float = 1.0) -> Function:
    """Return a function of a batch: its value is the loss, and its scalar to differentiate ``scale`` times the loss."""

    def function(batch: Batch, context: Context) -> tuple[Tensor, Tensor]:
        value = loss.of(model, batch, context)
        return value, value if scale == 1 else scale * value

    return function


def whole_features(model: nn.Module, batch: Batch | Shards, context: Context) -> Batch:
    """Return the whole batch with features (n, d) in place of images; those of other processes are constants here."""
    statistics, own = RunningStatistics(model, len(batch.sizes)), []
    for part, inside in batch.parts(context):
        with statistics.of_shard(inside.generator):
            own.append(inside.features(model, part.x))
    statistics.set(batch.summed(statistics.moved))
    return batch.whole(own)


def add_to_grad(parameters: dict[str, nn.Parameter], gradient: Gradient) -> None:
    """Add a gradient to ``.grad``; where that is None, it becomes the gradient itself."""
    for name, g in gradient.items():
        p = parameters[name]
        p.grad = g if p.grad is None else p.grad.add_(g)


def sum_grad(model: nn.Module, batch: Batch | Shards) -> None:
    """Sum ``.grad`` over processes, for rules that run the backward passes of their shards themselves."""
    left = [p for p in model.parameters() if p.requires_grad and p.grad is not None]
    for p, gradient in zip(left, batch.summed([p.grad for p in left if p.grad is not None]), strict=True):
        p.grad = gradient


def gradient_of(value: Tensor, parameters: dict[str, nn.Parameter], retain_graph: bool = False) -> Gradient:
    """Return the gradient of a scalar with respect to the parameters it depends on; ``.grad`` is left unchanged."""
    kept = {name: p.grad for name, p in parameters.items()}
    for p in parameters.values():
        p.grad = None
    value.backward(retain_graph=retain_graph)
    gradient = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    for name, p in parameters.items():
        p.grad = kept[name]
    return gradient


def _gradients(scalars: Sequence[Tensor], parameters: dict[str, nn.Parameter]) -> list[Gradient]:
    last = len(scalars) - 1
    return [gradient_of(scalar, parameters, retain_graph=i < last) for i, scalar in enumerate(scalars)]


def _sum(one: Gradient, other: Gradient) -> Gradient:
    return {n: one[n] + other[n] if n in one and n in other else one.get(n, other.get(n)) for n in {**one, **other}}  # type: ignore[misc]
