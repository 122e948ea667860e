"""Samplers: the training images of an epoch, and their order.

A sampler is a pure function of the labels and a CPU generator, so that a resumed epoch is the same epoch.
Every epoch has N draws, the size of the training set.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from sharpness.data.labels import check_labels
from sharpness.errors import UserError, choose


def instance(labels: Tensor, counts: Tensor, generator: Generator) -> Tensor:
    """Every image once, in random order."""
    return torch.randperm(len(labels), generator=generator)


def class_balanced(labels: Tensor, counts: Tensor, generator: Generator, per_class: float = 1) -> Tensor:
    """Class-aware draws: classes in shuffled cycles, ``per_class`` images of each visited class.

    Every class is visited once before any is visited again, and within a class every image is taken once
    before any is taken again; both lists are shuffled again for every cycle (Shen et al., ECCV 2016;
    MiSLAS, CC-SAM). Classes without images are never visited.
    """
    total, each = len(labels), int(per_class)
    present = torch.nonzero(counts).flatten()
    visits = math.ceil(total / each)
    cycles = math.ceil(visits / len(present))
    visited = present[_shuffles(len(present), cycles, generator)][:visits]
    classes = visited.repeat_interleave(each)[:total]
    members = torch.argsort(labels, stable=True).split(counts.tolist())
    wanted = torch.bincount(classes, minlength=len(counts)).tolist()
    streams = [
        rows[_shuffles(len(rows), math.ceil(want / len(rows)), generator)][:want]
        for rows, want in zip(members, wanted, strict=True)
        if want
    ]
    indices = torch.empty(total, dtype=torch.int64)
    indices[torch.argsort(classes, stable=True)] = torch.cat(streams)
    return indices


def inverse_frequency(labels: Tensor, counts: Tensor, generator: Generator) -> Tensor:
    """Independent draws with replacement, each image with probability proportional to ``1 / n_y``."""
    return _multinomial(1 / counts.double(), labels, generator)


def effective_number(labels: Tensor, counts: Tensor, generator: Generator, beta: float = 0.9999) -> Tensor:
    """Independent draws, weight ``(1 - beta) / (1 - beta ** n_y)`` (Cui et al., CVPR 2019)."""
    return _multinomial(_effective(torch.full_like(counts, beta, dtype=torch.float64), counts), labels, generator)


def cben(labels: Tensor, counts: Tensor, generator: Generator) -> Tensor:
    """Class-based effective number (Li, Cheung and Lu, GCL, CVPR 2022): a beta for every class.

    ``beta_c = 0.9999 + 1e-5 * d_c`` with d the min-max normalised ``log n_max - log n_c``; then the weights
    of :func:`effective_number`.
    """
    logs = counts.double().log()
    gap = torch.where(counts > 0, logs.max() - logs, 0.0)
    gap = gap / gap.max() if gap.max() > 0 else gap
    return _multinomial(_effective(0.9999 + 1e-5 * gap, counts), labels, generator)


def _shuffles(n: int, cycles: int, generator: Generator) -> Tensor:
    """``cycles`` independent permutations of ``0 .. n - 1``, one after the other, ``(cycles * n,)``."""
    return torch.rand(cycles, n, dtype=torch.float64, generator=generator).argsort(dim=1).flatten()


def _effective(beta: Tensor, counts: Tensor) -> Tensor:
    return (1 - beta) / -torch.expm1(counts * beta.log())


def _multinomial(class_weights: Tensor, labels: Tensor, generator: Generator) -> Tensor:
    return torch.multinomial(class_weights[labels], len(labels), replacement=True, generator=generator)


@dataclass(frozen=True)
class Sampler:
    """A draw, and the check of the argument its name may carry.

    Attributes:
        draw: from labels ``(N,)``, class counts ``(C,)``, generator and perhaps argument to indices ``(N,)``.
        accepts: what the argument must satisfy; None if the sampler takes none.
        example: a valid argument, for the error message.
    """

    draw: Callable[..., Tensor]
    accepts: Callable[[float], bool] | None = None
    example: str = ""


SAMPLERS: dict[str, Sampler] = {
    "instance": Sampler(instance),
    "class_balanced": Sampler(class_balanced, lambda k: k >= 1 and k == int(k), "4"),
    "inverse_frequency": Sampler(inverse_frequency),
    "effective_number": Sampler(effective_number, lambda beta: 0 < beta < 1, "0.999"),
    "cben": Sampler(cben),
}


def epoch_indices(name: str, labels: Tensor, num_classes: int, generator: Generator, *, per_class: int = 1) -> Tensor:
    """Indices ``(N,)``, int64, of the images of one epoch, on the labels' device.

    Args:
        name: of :data:`SAMPLERS`; ``class_balanced:4`` sets per_class, ``effective_number:0.999`` beta.
        labels: training labels ``(N,)``.
        num_classes: C.
        generator: CPU generator.
        per_class: images per visited class of ``class_balanced``, unless its name says.

    Raises:
        UserError: an unknown name, a wrong argument, no labels, or a label outside ``[0, C)``.

    >>> labels = torch.tensor([0, 0, 0, 0, 1, 1])
    >>> epoch_indices("instance", labels, 2, Generator()).sort().values.tolist()
    [0, 1, 2, 3, 4, 5]
    >>> labels[epoch_indices("class_balanced", labels, 2, Generator())].bincount().tolist()
    [3, 3]
    """
    kind, colon, argument = name.partition(":")
    choose("sampler", kind, list(SAMPLERS))
    sampler = SAMPLERS[kind]
    arguments = [_argument(name, argument, sampler)] if colon else []
    if kind == "class_balanced" and not colon:
        arguments = [_argument(f"{name}:{per_class}", str(per_class), sampler)]
    check_labels(labels, num_classes)
    if not len(labels):
        raise UserError("no labels to sample from: the training set is empty")
    known = labels.cpu()
    counts = torch.bincount(known, minlength=num_classes)
    return sampler.draw(known, counts, generator, *arguments).to(labels.device)


def _argument(name: str, text: str, sampler: Sampler) -> float:
    if sampler.accepts is None:
        raise UserError(f"sampler {name!r}: {name.partition(':')[0]} takes no argument")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and sampler.accepts(value)):
        example = f"{name.partition(':')[0]}:{sampler.example}"
        raise UserError(f"sampler {name!r}: give an argument such as {example}")
    return value
