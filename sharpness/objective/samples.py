"""Samples with their classes, weights and groups, over which an objective averages a loss."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpness.data import CONVENTION, Content, Inputs, Layout, SampleIdentity, named_groups, training_counts
from sharpness.data.rows import pieces, rows_at
from sharpness.engine.class_sums import WeightedBatch
from sharpness.errors import UserError, choose, require_whole

Groups = Mapping[str, Sequence[int | str]] | str | None
#: A class by index or name, a group by name, several names, or samples by index or mask.
Selection = int | str | Sequence[str] | Sequence[int] | Sequence[bool] | np.ndarray | Tensor
#: Number of class names shown in a message.
SHOWN = 10


@dataclass(frozen=True, eq=False)
class Table:
    """Inputs and targets as read, before the number of classes is known.

    Attributes:
        x: (n, ...) inputs; several inputs of a model are packed into columns.
        y: (n, ...) targets.
        weights: (n,) the a_i, positive.
        layout: positions of several inputs in ``x``; None for a single input.
        content: content that identifies the samples.

    Raises:
        UserError: weights that are not positive, or not one for each sample.
    """

    x: Tensor
    y: Tensor
    weights: Tensor
    layout: Layout | None
    content: Content

    def __post_init__(self) -> None:
        a = self.weights
        positive = a.shape == (len(self.y),) and not a.is_complex() and bool((a > 0).all())
        if not positive or not bool(a.isfinite().all()):
            raise UserError(f"weights must be positive and finite, one for each of the {len(self.y)} samples")

    @property
    def tensors(self) -> tuple[Inputs, Tensor]:
        """Inputs, in the form that the model accepts, and targets."""
        return self.x if self.layout is None else self.layout.as_given(self.x), self.y


@dataclass(frozen=True, eq=False)
class Samples(Table):
    """Inputs and targets with the class of every sample, and all information about the classes.

    An :class:`Objective` makes samples from its data, as ``objective.samples``. It also accepts them in place of data,
    so that they can be prepared once for several models or losses. Samples are immutable: methods that select samples
    or add information return new ones.

    Attributes:
        classes: (n,) int64 class indices.
        class_names: (C,).
        classes_from: ``"labels"``, ``"classes"``, ``"group_by"``, or ``"none"`` for a single class.
        weighted: whether the weights were given or come from a loss; another loss does not change them.
        train_counts: (C,) number of training images of each class; None if unknown.
        groups: class indices of every group.
        group_convention: convention that derives the groups from training counts; None if the groups were given.

    >>> from sharpness.objective import Description, Objective
    >>> samples = Description(class_names=("cat", "dog")).prepare((torch.eye(4), [0, 1, 1, 1]))
    >>> samples.class_samples.tolist(), samples.restrict(1).y.tolist()
    ([1, 3], [1, 1, 1])
    >>> model = torch.nn.Linear(4, 2)
    >>> Objective(model, samples).num_samples, Objective(model, samples.matched(1)).num_samples
    (4, 2)
    """

    classes: Tensor
    class_names: tuple[str, ...]
    classes_from: str
    weighted: bool
    train_counts: np.ndarray | None
    groups: dict[str, tuple[int, ...]]
    group_convention: str | None

    @property
    def num_classes(self) -> int:
        """C, the number of classes."""
        return len(self.class_names)

    @property
    def num_samples(self) -> int:
        """n, the number of samples."""
        return len(self.y)

    @cached_property
    def class_samples(self) -> np.ndarray:
        """Number of samples of each class, shape (C,)."""
        return torch.bincount(self.classes, minlength=self.num_classes).numpy()

    @cached_property
    def class_weights(self) -> np.ndarray:
        """Sum of the weights of each class's samples, shape (C,)."""
        return torch.bincount(self.classes, self.weights.double(), self.num_classes).numpy()

    @property
    def present_groups(self) -> dict[str, list[int]]:
        """The classes of every group that have samples; the value of a group is the mean over these."""
        return {name: [c for c in classes if self.class_samples[c]] for name, classes in self.groups.items()}

    @cached_property
    def data_sha256(self) -> str:
        """SHA-256 of inputs, targets, weights, and classes unless they are the labels; the key of unfinished work."""
        digest = hashlib.sha256()
        further = () if self.classes_from in ("labels", "none") else (self.classes,)
        for t in (self.x, self.y, self.weights, *further):
            for part in pieces(t):
                digest.update(part.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @cached_property
    def identity(self) -> SampleIdentity:
        """The identity of the samples, independent of their order and their normalisation."""
        targets = None if self.classes_from == "labels" else self.y
        return self.content.identity(self.classes, self.weights, targets)

    @property
    def image_constants(self) -> dict[str, list[float]] | None:
        """``mean`` and ``std`` of the inputs per channel; None if unknown."""
        mean, std = self.content.mean, self.content.std
        return None if mean is None or std is None else {"mean": list(mean), "std": list(std)}

    def indices(self, which: int | str | None) -> Tensor:
        """Return the indices of the samples of a class, by its index or name, or of all samples.

        Raises:
            UserError: an unknown class, or one without samples.
        """
        if which is None:
            return torch.arange(len(self.y), device="cpu")
        if isinstance(which, str):
            choose("class", which, self.class_names)
            which = self.class_names.index(which)
        require_whole("class", which, why=f", or one of {', '.join(self.class_names[:SHOWN])}")
        if which >= self.num_classes:
            raise UserError(f"class {which} is outside 0..{self.num_classes - 1}")
        return self._of_classes([which], f"class {which}")

    def restrict(self, what: Selection) -> Samples:
        """Keep the samples of a class (index or name), a group, several names, or samples by index or mask.

        Raises:
            UserError: an unknown class or group, one without samples, or indices out of range.
        """
        if isinstance(what, str) and what in self.groups:
            kept = self._of_classes(self.groups[what], f"group {what}")
        elif isinstance(what, str | Integral):
            kept = self.indices(what)
        elif isinstance(what, Sequence) and what and all(isinstance(name, str) for name in what):
            names = [str(name) for name in what]
            for name in names:
                choose("class or group", name, [*self.groups, *self.class_names])
            classes = {name: (c,) for c, name in enumerate(self.class_names)} | dict(self.groups)
            kept = self._of_classes([c for name in names for c in classes[name]], ", ".join(names))
        else:
            kept = chosen(what, len(self.y))
        x, y, weights, classes = (rows_at(t, kept) for t in (self.x, self.y, self.weights, self.classes))
        return replace(self, x=x, y=y, weights=weights, classes=classes, content=self.content.take(kept))

    def _of_classes(self, classes: Sequence[int], name: str) -> Tensor:
        indices = torch.isin(self.classes, torch.as_tensor(classes, device=self.classes.device)).nonzero().squeeze(1)
        if not len(indices):
            raise UserError(f"{name} has no samples here: there is no loss to probe")
        return indices

    def matched(self, samples: int, seed: int = 0) -> Samples:
        """Draw equally many samples of every class that has any, without replacement.

        The draw does not depend on the order of the samples or their normalisation.

        Args:
            samples: number of samples of each class.
            seed: seed of the draw.

        Raises:
            UserError: a class has fewer samples.
        """
        counts, digests = self.class_samples, self.identity.digests
        if samples < 1 or bool(((counts > 0) & (counts < samples)).any()):
            least = int(min(counts[counts > 0]))
            name = self.class_names[int(np.flatnonzero(counts == least)[0])]
            raise UserError(f"match_samples={samples}: give 1 to {least}, what class {name} has")
        draw = np.random.default_rng(seed)
        chosen = []
        for c in np.flatnonzero(counts):
            members = np.flatnonzero(self.classes.numpy() == c)
            chosen.append(draw.choice(members[np.argsort(digests[members], kind="stable")], samples, replace=False))
        return self.restrict(np.sort(np.concatenate(chosen)))

    def in_order_of(self, other: Samples) -> Samples:
        """Bring the samples into the order of ``other``, which has the same samples; equal inputs are shared."""
        if self is other or self.data_sha256 != other.data_sha256:
            order = other.identity.order_of(self.identity)
            return self if order is None else self.restrict(order)
        return replace(self, x=other.x, content=other.content)  # one copy in memory for any number of models

    def counted(self, train_counts: Sequence[int]) -> Samples:
        """Set the training counts per class, (C,), and derive groups from them unless groups were given.

        Raises:
            UserError: the counts do not match the classes.
        """
        groups = self.group_convention or self.groups or None
        return replace(self, **grouping(train_counts, groups, self.class_names))

    def weighed_by(self, loss: Any) -> Samples:
        """Multiply the weights by those of a loss with a method ``weights(y)``, unless ``weighted`` is true."""
        of_loss = getattr(loss, "weights", None)
        if self.weighted or not callable(of_loss):
            return self
        weights = self.weights * of_loss(self.y).cpu()
        return replace(self, weights=weights.to(self.weights.dtype), weighted=True)


def grouping(train_counts: Any, groups: Groups, class_names: Sequence[str]) -> dict[str, Any]:
    """Return the three fields about training images: their counts, and groups derived from them unless given."""
    counts = None if train_counts is None else training_counts(train_counts, len(class_names), class_names)
    if groups is None and counts is not None:
        groups = CONVENTION
    convention = groups if isinstance(groups, str) else None
    found = named_groups(groups, counts, class_names)
    return {"train_counts": counts, "groups": found, "group_convention": convention}


def chosen(what: Any, samples: int) -> Tensor:
    """Return the indices (m,) of the samples that a user chose by index or mask.

    Raises:
        UserError: no samples, indices out of range, or neither integers nor a mask of all samples.

    >>> chosen([True, False, True], 3).tolist(), chosen([2, 0], 3).tolist()
    ([0, 2], [2, 0])
    """
    try:
        given = torch.as_tensor(what, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        given = torch.empty(0, 0)
    if given.dtype == torch.bool and given.shape == (samples,):
        given = given.nonzero().squeeze(1)
    if not given.numel() and given.ndim < 2:
        raise UserError("no samples were chosen: give at least one index")
    if given.ndim != 1 or given.dtype == torch.bool or given.is_floating_point() or given.is_complex():
        kind = f"{str(given.dtype).removeprefix('torch.')} of shape {tuple(given.shape)}" if given.numel() else what
        raise UserError(f"samples {kind!s:.80}: choose them by a list of indices, or by a mask of all {samples}")
    given = given.to(torch.int64)  # torch compares no uint16, uint32 or uint64
    outside = given[(given < 0) | (given >= samples)]
    if len(outside):
        raise UserError(f"sample {int(outside[0])} is outside 0..{samples - 1}")
    return given


class Batches(Sequence[WeightedBatch]):
    """Batches of some samples: inputs, targets and weights, which are only loaded on access.

    Args:
        columns: inputs, targets and weights of all samples; inputs may be read from disk.
        indices: indices of the samples.
        size: largest size of a batch.
        device: device of the batches.

    >>> x = torch.arange(5.0)
    >>> [batch[0].tolist() for batch in Batches((x, x, x), torch.tensor([4, 0, 2]), 2, torch.device("cpu"))]
    [[4.0, 0.0], [2.0]]
    """

    def __init__(self, columns: Sequence[Any], indices: Tensor, size: int, device: torch.device) -> None:
        self.columns, self.device = columns, device
        self.parts = [part for part in indices.split(size) if len(part)]

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: Any) -> Any:
        part = self.parts[number]
        return tuple(column[part].to(self.device) for column in self.columns)

    def __iter__(self) -> Iterator[WeightedBatch]:
        return (self[number] for number in range(len(self)))
