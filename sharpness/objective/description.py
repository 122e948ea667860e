"""Description of samples: classes, names, weights and groups, as given by the caller."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypedDict

import torch
from torch import Tensor

from sharpness.data import (
    Content,
    ForeignData,
    are_labels,
    classes_of,
    column,
    cross_entropy_targets,
    number_of,
    pack,
    plain_targets,
    read_samples,
)
from sharpness.data.by_class import ordered_names
from sharpness.errors import UserError
from sharpness.objective.samples import Groups, Samples, Table, grouping


class SharedSampleOptions(TypedDict, total=False):
    """Keywords of :class:`Description` that :func:`~sharpness.checkpoint_objective` passes on."""

    num_classes: int | None
    classes: Any
    group_by: Any
    weights: Any
    groups: Mapping[str, Sequence[int | str]] | str | None
    class_names: Sequence[str] | None
    names: Sequence[Any] | None
    batch: Callable[[Any], Any] | None


class SampleOptions(SharedSampleOptions, total=False):
    """All keywords of :class:`Description`, for type checkers; a test compares the two."""

    train_counts: Sequence[int] | None
    mean: Sequence[float] | None
    std: Sequence[float] | None


@dataclass(frozen=True)
class Description:
    """The description of samples apart from inputs and targets: the arguments of ``Objective`` with the same names.

    >>> Description(num_classes=3).prepare((torch.zeros(2, 1), [0, 2])).class_samples.tolist()
    [1, 0, 1]
    """

    num_classes: int | None = None
    classes: Any = None
    group_by: Any = None
    weights: Any = None
    groups: Groups = None
    class_names: Sequence[str] | None = None
    train_counts: Sequence[int] | None = None
    names: Sequence[Any] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    batch: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_names", ordered_names(self.class_names))

    def completed_by(self, data: Any) -> Description:
        """Add what foreign data know of their classes, unless samples are split by other classes."""
        if not isinstance(data, ForeignData) or self.classes is not None or self.group_by is not None:
            return self
        known: dict[str, Any] = {
            "num_classes": data.num_classes,
            "class_names": data.class_names,
            "train_counts": data.train_counts,
        }
        return replace(self, **{name: value for name, value in known.items() if getattr(self, name) is None})

    def prepare(self, data: Any) -> Samples:
        """Read and describe samples without a model.

        Args:
            data: data in any form that :class:`Objective` accepts.

        Returns:
            The samples, in the precision of the data.

        Raises:
            UserError: labels of an unknown number of classes, or anything else that :class:`Objective` refuses.
        """
        described = self.completed_by(data)
        table = described.read(data)
        y = table.y
        numbered = described.num_classes is not None or described.class_names is not None
        if numbered and not isinstance(table, Samples) and y.ndim == 2 and y.shape[1] == 1 and are_labels(y[:, 0]):
            table = replace(table, y=y[:, 0])  # labels in a column, as for loss="ce" of a model
        unknown = described.num_classes is None and described.classes is None and described.group_by is None
        if are_labels(table.y) and unknown:
            if described.class_names is None:
                raise UserError("labels alone do not say how many classes there are: give num_classes= or class_names=")
            described = replace(described, num_classes=len(described.class_names))
        return described.samples(table)

    def read(self, data: Any, dtype: torch.dtype = torch.float64, takes: Collection[str] = ()) -> Table:
        """Read inputs and targets in the precision of the data.

        Args:
            data: data in any form that :class:`Objective` accepts, or :class:`Samples`.
            dtype: dtype of the model, which must represent integers exactly if other inputs are real.
            takes: names of the model's arguments, which distinguish inputs from other entries of a dict.

        Raises:
            UserError: data of another kind, or a description of prepared samples, which already have one.
        """
        prepared = isinstance(data, Samples)
        given = [f"{field.name}=" for field in fields(self) if getattr(self, field.name) is not None]
        if prepared and given:
            raise UserError(f"{', '.join(given)}: prepared Samples have their own, leave them out")
        inputs, y = data.tensors if prepared else read_samples(data, self.batch, takes, self.class_names)
        x, layout = pack(inputs, dtype)
        x, y = (t.clone() if t.is_inference() else t for t in (x, y))
        if isinstance(x, Tensor) and x.requires_grad:
            x = x.detach()  # nothing is differentiated by the inputs, and a trace would keep their graph
        if isinstance(data, Samples):
            return replace(data, x=x, y=y, layout=layout)
        weights = data.weights if isinstance(data, ForeignData) else torch.ones(len(y))
        return Table(x, y, weights, layout, Content.of(data, x, self.names, self.mean, self.std))

    def samples(
        self, table: Table, outputs: Sequence[int] | None = None, dtype: torch.dtype | None = None, ce: bool = False
    ) -> Samples:
        """Add classes, names, weights and groups to a table, in the precision of a model.

        Args:
            table: the result of :meth:`read`; prepared samples keep their classes, weights and groups.
            outputs: shape of the model's outputs for some samples; their width may give the number of classes. None
                without a model.
            dtype: dtype of the model; None keeps all precisions.
            ce: whether the loss is cross-entropy, which only accepts labels and probabilities.

        Raises:
            UserError: targets that the loss does not accept, classes out of range, or names, weights or groups that do
                not match them.
        """
        y = table.y.cpu() if dtype is None else plain_targets(table.y, dtype)
        # Converted from the targets as read: probabilities stay in float64 whatever the precision of the model.
        if ce and outputs is not None:
            y = cross_entropy_targets(table.y.cpu(), outputs)
        x = table.x.to(dtype) if table.x.is_floating_point() else table.x
        weights = table.weights if self.weights is None else column(self.weights, "weights")
        weights = weights.cpu().to(dtype)
        if isinstance(table, Samples):
            return replace(table, x=x, y=y, weights=weights)
        names = None if self.class_names is None else tuple(self.class_names)
        if names is not None and (twice := next((n for i, n in enumerate(names) if n in names[:i]), None)) is not None:
            raise UserError(f"class_names has {twice!r} twice: give each class a name of its own")
        found = classes_of(
            table.tensors[0],  # as given: rounding to the model's precision might change the classes
            y,
            outputs[1] if outputs is not None and len(outputs) == 2 else None,
            num_classes=self.num_classes,
            classes=self.classes,
            group_by=self.group_by,
            class_names=names,
        )
        # In this order: the given names, those from group_by=, or the numbers of the labels.
        names = names or found.names or tuple(str(c) for c in range(found.number))
        if len(names) != found.number:
            raise UserError(
                f"{len(names)} class_names and {number_of(found.number)}: give one for each"
                + (", and say with classes= or group_by= which samples are whose" if found.source == "none" else "")
            )
        groups = grouping(self.train_counts, self.groups, names)
        weighted = self.weights is not None
        return Samples(
            x, y, weights, table.layout, table.content, found.index, names, found.source, weighted, **groups
        )  # fmt: skip
