"""Long-tailed training sets: profile, choice of images, and groups.

Repositories with the same profile often select different images. A checkpoint must be probed on the images it was
trained on, so the description includes the rule that selected them (``subset``):

* ``ldam_seed0``: for each class in ascending order, its ascending index list is shuffled by one
  RandomState(0) and the first n_c are kept (LDAM-DRW, MiSLAS, GCL, RSG, Focal-SAM),
* ``seed:<int>``: the same with another seed,
* ``first_n``: the first n_c images of each class in file order (M2m, ImbSAM),
* ``list:<fingerprint>``: the images of a list (profile ``listed``; ImageNet-LT, Places-LT, iNaturalist 2018).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from sharpness.data.groups import Groups, check_convention, class_groups
from sharpness.data.profiles import LISTED, check_profile
from sharpness.errors import UserError
from sharpness.renamed import renamed_arguments, renamed_attribute

#: Keys in files (checkpoints and unfinished runs) that differ from the names of attributes.
IN_FILES = {"train_counts": "class_counts"}


def _seed(subset: str) -> int | None:
    """The seed of the shuffle, or None for ``first_n``."""
    if subset == "first_n":
        return None
    if subset == "ldam_seed0":
        return 0
    kind, _, number = str(subset).partition(":")
    if kind == "seed" and number.isdecimal() and int(number) < 2**32:
        return int(number)
    raise UserError(f"unknown subset {subset!r}: choose one of ldam_seed0, seed:<int>, first_n")


def check_recipe(profile: str, imbalance: float, subset: str, groups: str) -> None:
    """Raise a :class:`UserError` for any mistake that can be found before images are read."""
    check_profile(profile, imbalance)
    if profile != LISTED or not str(subset).startswith("list:"):
        _seed(subset)
    check_convention(groups)


def select_indices(labels: np.ndarray | torch.Tensor | Sequence[int], counts: Sequence[int], subset: str) -> np.ndarray:
    """Indices ``(sum(counts),)``, int64, of the images that a recipe keeps, sorted by class.

    Args:
        labels: labels of the pool, ``(n,)``.
        counts: images to keep per class, ``(C,)``.
        subset: ``ldam_seed0``, ``seed:<int>`` or ``first_n``.

    Raises:
        UserError: an unknown recipe, or a class with fewer images than asked for.

    >>> select_indices([1, 0, 0, 1, 0], (2, 1), "first_n")
    array([1, 2, 0])
    """
    seed = _seed(subset)
    random = None if seed is None else np.random.RandomState(seed)
    labels = np.asarray(labels)
    kept = []
    for label, count in enumerate(counts):
        members = np.flatnonzero(labels == label).astype(np.int64)
        if len(members) < count:
            raise UserError(f"class {label} is asked for {count} images and has {len(members)}")
        if random is not None:
            random.shuffle(members)
        kept.append(members[:count])
    return np.concatenate(kept)


@renamed_arguments(class_counts="train_counts")
@dataclass(frozen=True, repr=False)
class LongTail:
    """The description of a long-tailed training set, which allows rebuilding it from the data set's files.

    Attributes:
        dataset: the name for :func:`sharpness.data.load_data`.
        class_names: ``(C,)`` names in label order.
        profile: a name in :data:`PROFILES`, or ``"listed"``.
        imbalance: the nominal ``n_max / n_min``.
        subset: the rule that selected the images.
        train_counts: ``(C,)`` training images per class.
        group_convention: rule for the groups many, medium and few.

    Raises:
        UserError: unknown profile, subset or convention; imbalance below 1; a class without images.

    >>> tail = LongTail("toy", ("a", "b", "c"), "exp", 100, "first_n", (200, 20, 2), "oltr")
    >>> tail.groups["few"], tail.tail_class, tail.total
    ((1, 2), 2, 222)
    """

    dataset: str
    class_names: tuple[str, ...]
    profile: str
    imbalance: float
    subset: str
    train_counts: tuple[int, ...]
    group_convention: str
    class_counts = renamed_attribute("class_counts", "train_counts")

    def __post_init__(self) -> None:
        check_recipe(self.profile, self.imbalance, self.subset, self.group_convention)
        if len(self.class_names) != len(self.train_counts):
            raise UserError(f"{len(self.class_names)} class names for {len(self.train_counts)} train counts")
        for name, count in zip(self.class_names, self.train_counts, strict=True):
            if count < 1:
                raise UserError(f"class {name!r} has {count} training images: every class needs at least 1")
        class_groups(self.train_counts, self.group_convention, self.imbalance)

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.train_counts)

    @property
    def total(self) -> int:
        """N, the sum of the train counts."""
        return sum(self.train_counts)

    @property
    def groups(self) -> Groups:
        """Class indices under ``many``, ``medium`` and ``few``."""
        return class_groups(self.train_counts, self.group_convention, self.imbalance)

    @property
    def tail_class(self) -> int:
        """Index of the rarest class; the last one if there are several."""
        return min(range(self.num_classes), key=lambda c: (self.train_counts[c], -c))

    def group_of(self, c: int) -> str:
        """The group of class ``c``."""
        for group, members in self.groups.items():
            if c in members:
                return group
        raise UserError(f"class {c} is outside 0..{self.num_classes - 1}")

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values for JSON, which :meth:`from_dict` reads."""
        values = {IN_FILES.get(field.name, field.name): getattr(self, field.name) for field in fields(self)}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LongTail:
        """The inverse of :meth:`to_dict`.

        Raises:
            UserError: missing or unknown keys, or values that describe no long tail.
        """
        names = [IN_FILES.get(field.name, field.name) for field in fields(cls)]
        if set(values) != set(names):
            odd = sorted(set(values) ^ set(names))
            raise UserError(f"long-tail description: give {', '.join(names)}; wrong here: {', '.join(odd)}")
        given = {field.name: values[name] for field, name in zip(fields(cls), names, strict=True)}
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
        return cls(**plain)

    def __repr__(self) -> str:
        return (
            f"LongTail({self.dataset}, {self.profile} {self.imbalance:g}, {self.num_classes} classes, "
            f"{max(self.train_counts)} to {min(self.train_counts)} images, N={self.total}, "
            f"{self.subset}, groups {self.group_convention})"
        )
