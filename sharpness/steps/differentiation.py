"""Gradients of functions of a batch, or of the shards of a batch that processes share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sharpness.steps.batch import Batch
from sharpness.steps.context import Context
from sharpness.steps.loss import Loss
from sharpness.steps.perturbed import RunningStatistics
from sharpness.steps.shards import Shards

#: A vector of the weight space, by the names of the parameters that it has a part in.
Gradient = dict[str, Tensor]
#: What a rule computes on a batch: a value to report, and scalars to differentiate.
Function = Callable[[Batch, Context], Sequence[Tensor]]


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a model that are trained, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def differentiate(
    model: nn.Module, batch: Batch | Shards, context: Context, function: Function
) -> tuple[Tensor, list[Gradient]]:
    r"""The value of a batch, without a graph, and the gradients of scalars; ``.grad`` stays as it is.

    Of shards, which run forward and backward one after another, both are those of :math:`\sum_s A_s f_s / \sum_s A_s`,
    with :math:`A_s` the sum of the weights in the first loss that ``function`` takes of shard s, else its images.

    Args:
        function: from a batch and its context to a value and any number of scalars.
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
    # All in one sum over processes; of a parameter also whether any shard has a gradient by it, because an optimizer
    # does not treat none as zero.
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
    """The function of a batch that gives the loss as a value, and ``scale`` times it to differentiate."""

    def function(batch: Batch, context: Context) -> tuple[Tensor, Tensor]:
        value = loss.of(model, batch, context)
        return value, value if scale == 1 else scale * value

    return function


def whole_features(model: nn.Module, batch: Batch | Shards, context: Context) -> Batch:
    """The whole batch with features (n, d) for images; those that other processes have are constants here."""
    statistics, own = RunningStatistics(model, len(batch.sizes)), []
    for part, inside in batch.parts(context):
        with statistics.of_shard(inside.generator):
            own.append(inside.features(model, part.x))
    statistics.set(batch.summed(statistics.moved))
    return batch.whole(own)


def add_to_grad(parameters: dict[str, nn.Parameter], gradient: Gradient) -> None:
    """Add a gradient to ``.grad``, which becomes the gradient itself where it was None."""
    for name, g in gradient.items():
        p = parameters[name]
        p.grad = g if p.grad is None else p.grad.add_(g)


def sum_grad(model: nn.Module, batch: Batch | Shards) -> None:
    """Sum ``.grad`` over the processes of a batch, for rules that run backward over their shards by themselves."""
    left = [p for p in model.parameters() if p.requires_grad and p.grad is not None]
    for p, gradient in zip(left, batch.summed([p.grad for p in left if p.grad is not None]), strict=True):
        p.grad = gradient


def gradient_of(value: Tensor, parameters: dict[str, nn.Parameter], retain_graph: bool = False) -> Gradient:
    """The gradient of a scalar by those parameters that it depends on; ``.grad`` stays as it is."""
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
