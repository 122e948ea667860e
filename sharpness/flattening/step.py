"""The step protocol: a rule perturbs the weights, evaluates, restores them and leaves a gradient to step with.

A rule is asked for a gradient only; the optimiser steps afterwards with it. So any rule works with any loss, and
with any optimiser, and a new variant of sharpness-aware minimisation is about thirty lines: it says where the weights
go and what is differentiated there, in the terms of :mod:`sharpness.flattening.passes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from sharpness.transfer import to_device


@dataclass(frozen=True)
class Batch:
    """Images with one label each, or two of them mixed: weight ``lam`` on ``first``, the rest on ``second``."""

    x: Tensor  # (n, channels, h, w)
    first: Tensor  # (n,)
    second: Tensor | None = None  # (n,)
    lam: float | Tensor = 1.0  # a scalar

    def rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """The batch as plain labelled rows: indices into x (m,), labels (m,), weights (m,) that sum to n.

        A mixed image is two rows, one for each of its labels.
        """
        index = torch.arange(len(self.x), device=self.x.device)
        ones = torch.ones(len(self.x), device=self.x.device)
        if self.second is None:
            return index, self.first, ones
        return (
            torch.cat([index, index]),
            torch.cat([self.first, self.second]),
            torch.cat([self.lam * ones, (1 - self.lam) * ones]),
        )


def draw_normal(shape: torch.Size, generator: torch.Generator, device: torch.device) -> Tensor:
    """Standard normal numbers of a CPU generator, float32, on a device."""
    return to_device(torch.randn(shape, generator=generator), device)


@dataclass(frozen=True)
class Context:
    """What a loss or a rule may know besides the batch: where training stands, and random numbers.

    Batches and losses draw from ``generator``, rules from ``noise``: two runs of one seed that differ in their rule see
    the same images, crops and mixtures.
    """

    class_counts: Tensor  # (C,) training images per class
    epoch: int  # 1-based within the stage
    epochs: int  # of the stage
    generator: torch.Generator = field(default_factory=torch.Generator)
    noise: torch.Generator = field(default_factory=torch.Generator)
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    factors: Tensor | None = None  # (K, C): a rule asks for K losses at once, see Loss.__call__
    draw: Callable[[torch.Size, torch.Generator, torch.device], Tensor] = draw_normal
    replayed: Callable[..., Any] | None = None  # calls a function of tensors, see sharpness.training.steps.Replays

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal numbers of the shape and on the device of ``like``, float32, from ``generator``.

        What is drawn in another way inside a loss cannot be drawn anew when a step is replayed as a CUDA graph.
        """
        return self.draw(like.shape, self.generator, like.device)

    def apart(self) -> Context:
        """The same context with random numbers of its own, seeded by draws of the rule's."""
        seeds = torch.randint(2**62, (2,), generator=self.noise).tolist()
        generator, noise = (torch.Generator().manual_seed(seed) for seed in seeds)
        return replace(self, generator=generator, noise=noise)

    def features(self, model: nn.Module, x: Tensor) -> Tensor:
        """Features (n, d) in float32 or better, computed under autocast where training uses it."""
        with self.autocast():
            features = model.backbone(x)  # type: ignore[operator]
        return at_least_float32(features)


class Loss:
    r"""A training loss, :math:`L = \sum_i a_i \ell_i / \sum_i a_i`, given by its terms.

    Attributes:
        capturable: whether a step with this loss can be replayed as a CUDA graph: its operations do not depend on the
            values of tensors, it draws by :meth:`Context.normal` alone, and all else that changes it is the epoch.
    """

    capturable: bool = False

    def terms(self, logits: Tensor, labels: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Losses (n,) and weights (n,) of logits (n, C) and labels (n,); no gradient flows through the weights."""
        raise NotImplementedError

    def __call__(self, logits: Tensor, labels: Tensor, context: Context) -> Tensor:
        r"""The loss of logits (n, C) and labels (n,), a scalar.

        Where the context has ``factors`` f of shape (K, C) it is K losses, of shape (K,), that share their forward
        pass: :math:`\sum_i f_{k y_i} a_i \ell_i / \sum_i a_i`, with the normalisation of the loss itself.
        """
        losses, weights = self.terms(logits, labels, context)
        if context.factors is None:
            return (weights * losses).sum() / weights.sum()
        return context.factors.to(losses)[:, labels] @ (weights * losses) / weights.sum()

    def of(self, model: nn.Module, batch: Batch, context: Context) -> Tensor:
        """The loss of a training batch, a scalar: what every gradient rule differentiates.

        Methods whose loss takes more than labelled logits, such as features or networks of their own, override it.
        They average labelled terms by calling a loss, so that ``context.factors`` reach them, and add the rest.
        """
        return mixed_loss(model.head(context.features(model, batch.x)), batch, self, context)  # type: ignore[operator]

    def parts(self, model: nn.Module, class_counts: tuple[int, ...]) -> nn.Module | None:
        """A fresh module that :meth:`of` uses, trained with the network and absent at inference; most losses have none.

        Training puts it on the network as ``model.auxiliary``.
        """
        return None

    def deterministic(self) -> Loss:
        """The loss as a probe sees it: random terms are replaced by their mean."""
        return self


class Rule(Protocol):
    """Fills ``.grad`` of the trainable parameters; returns the unperturbed loss, a scalar without a graph.

    A rule with the attribute ``capturable = True`` can be replayed as a CUDA graph, see :class:`Loss`.
    """

    def backward(self, model: nn.Module, batch: Batch, loss: Loss, context: Context) -> Tensor: ...


@runtime_checkable
class EpochRule(Protocol):
    """Makes the rule of an epoch from the network as it stands before it.

    ``batches`` are training batches of the same making as those that follow, as many, and drawn apart from them.
    """

    def for_epoch(self, model: nn.Module, batches: Iterator[Batch], context: Context) -> Rule: ...


def mixed_loss(logits: Tensor, batch: Batch, loss: Loss, context: Context) -> Tensor:
    """``lam * loss(logits, first) + (1 - lam) * loss(logits, second)``; two calls, as mixup is published."""
    value = loss(logits, batch.first, context)
    if batch.second is None:
        return value
    return batch.lam * value + (1 - batch.lam) * loss(logits, batch.second, context)


@dataclass(frozen=True)
class PlainStep:
    """The gradient of the loss where the weights stand: ordinary SGD."""

    capturable = True

    def backward(self, model: nn.Module, batch: Batch, loss: Loss, context: Context) -> Tensor:
        value = loss.of(model, batch, context)
        value.backward()
        return value.detach()


@contextmanager
def perturbed(parameters: Sequence[Tensor], perturbation: Sequence[Tensor]) -> Iterator[None]:
    """Add ``perturbation`` to the parameters in place, and put the exact old values back, whatever happens."""
    saved = [p.detach().clone() for p in parameters]
    try:
        with torch.no_grad():
            for p, e in zip(parameters, perturbation, strict=True):
                p.add_(e)
        yield
    finally:
        with torch.no_grad():
            for p, old in zip(parameters, saved, strict=True):
                p.copy_(old)


@contextmanager
def frozen_running_statistics(model: nn.Module) -> Iterator[None]:
    """Normalise with the batch, as training does, without moving the running statistics.

    Second passes at perturbed weights would otherwise count every batch twice.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    saved = [(m.track_running_stats, m.running_mean, m.running_var, m.num_batches_tracked) for m in layers]
    try:
        for m in layers:
            m.track_running_stats, m.running_mean, m.running_var, m.num_batches_tracked = (
                False,
                None,
                None,
                None,
            )
        yield
    finally:
        for m, (track, mean, var, batches) in zip(layers, saved, strict=True):
            m.track_running_stats, m.running_mean, m.running_var, m.num_batches_tracked = (
                track,
                mean,
                var,
                batches,
            )


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32, or as it is where it is more precise."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def joint_norm(tensors: Iterable[Tensor]) -> Tensor:
    """The l2 norm of all tensors taken as one vector."""
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(t) for t in tensors]))
