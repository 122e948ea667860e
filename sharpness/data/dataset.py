"""Sets of labelled images, and long-tailed data sets with training and test images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, cast

import numpy as np
import torch
from torch import Tensor

from sharpness.data.augment import AUGMENTATIONS
from sharpness.data.class_orders import class_order
from sharpness.data.content import Content, pixel_digests
from sharpness.data.groups import Groups
from sharpness.data.labels import check_labels, first_of_each
from sharpness.data.longtail import LongTail, select_indices
from sharpness.data.profiles import check_present, profile_counts
from sharpness.data.rows import Rows, rows_at
from sharpness.data.standardization import Standardization, require_shares
from sharpness.errors import UserError, choose
from sharpness.identity import PIXELS
from sharpness.renamed import renamed_attribute

#: Parts of a long-tailed data set; some only have training and test images.
PARTS = ("train", "val", "test", "open")


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """Labelled 8-bit images and the statistics that normalise them.

    Attributes:
        images: ``(n, ch, h, w)`` uint8, or :class:`~sharpness.data.rows.Rows`, which are read on demand.
        labels: ``(n,)`` int64.
        mean: mean per channel, for pixels in [0, 1].
        std: standard deviation per channel, for pixels in [0, 1].

    Raises:
        UserError: wrong dtypes or shapes, or a standard deviation that is not positive.

    >>> images = torch.full((2, 1, 4, 4), 255, dtype=torch.uint8)
    >>> x, y = ImageSet(images, torch.tensor([0, 1]), (0.5,), (0.25,)).tensors
    >>> x.unique().item()
    2.0
    """

    images: Any
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise UserError(f"images must be uint8 (n, ch, h, w), not {self.images.dtype} {tuple(self.images.shape)}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise UserError(
                f"labels must be int64 ({len(self.images)},), not {self.labels.dtype} {tuple(self.labels.shape)}"
            )
        channels = self.images.shape[1]
        if len(self.mean) != channels or len(self.std) != channels or min(self.std) <= 0:
            raise UserError(f"mean {self.mean} and std {self.std}: give {channels} values each, std above 0")
        require_shares(self.mean, self.std)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"ImageSet({len(self)} images, {' x '.join(map(str, self.images.shape[1:]))})"

    def normalize(self, images: Tensor) -> Tensor:
        """``(x / 255 - mean) / std``, float32, for uint8 images ``(n, ch, h, w)`` on any device."""
        return Standardization(tuple(self.mean), tuple(self.std)).apply(images)

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """Normalised images ``(n, ch, h, w)`` and labels ``(n,)``, as a TensorDataset names them.

        Rows of a source are not read here: an objective reads and normalises them batch by batch.
        """
        if isinstance(self.images, Rows):
            # Rows support every operation that an objective performs on a tensor of inputs.
            return cast("Tensor", self.images.standardized(Standardization(self.mean, self.std))), self.labels
        return self.normalize(self.images), self.labels

    @property
    def content(self) -> Content:
        """The content that identifies the images: their pixels."""
        images = self.images
        known = images.digests if isinstance(images, Rows) else lambda: pixel_digests(images)
        return Content(PIXELS, known, self.mean, self.std)

    def to(self, device: str | torch.device) -> ImageSet:
        """The same set on another device."""
        images = self.images.on(device) if isinstance(self.images, Rows) else self.images.to(device)
        return replace(self, images=images, labels=self.labels.to(device))

    def by_digest(self, digests: np.ndarray) -> ImageSet | None:
        """The images with the given digests (m,), in this order, or None if one is missing."""
        here = {int(digest): i for i, digest in enumerate(self.content.digests)}
        places = [here.get(int(digest)) for digest in digests]
        return None if None in places else self.subset([i for i in places if i is not None])

    def subset(self, indices: Tensor | np.ndarray | Sequence[int]) -> ImageSet:
        """The images at ``indices``, in that order."""
        index = torch.as_tensor(indices, dtype=torch.int64).to(self.labels.device)
        return replace(self, images=rows_at(self.images, index), labels=self.labels[index])

    def limit_per_class(self, n: int) -> ImageSet:
        """The first ``n`` images of each class, in the order of the set.

        Raises:
            UserError: ``n`` below 1.
        """
        return self.subset(first_of_each(self.labels, n))

    def sha256(self) -> str:
        """SHA-256 of pixels and labels; for rows of a list, its names and transform replace the pixels."""
        if isinstance(self.images, Rows):
            digest = hashlib.sha256(self.images.content_sha256().encode())
        else:
            digest = hashlib.sha256(self.images.cpu().contiguous().numpy().tobytes())
        digest.update(self.labels.cpu().numpy().tobytes())
        return digest.hexdigest()

    class_counts = renamed_attribute("class_counts", "class_samples")

    def class_samples(self, num_classes: int) -> Tensor:
        """Images per class, ``(num_classes,)`` int64.

        Raises:
            UserError: a label outside ``[0, num_classes)``.
        """
        check_labels(self.labels, num_classes)
        return torch.bincount(self.labels, minlength=num_classes)


class Cut(TypedDict):
    """Keywords for cutting a long tail out of a pool of training images.

    Attributes:
        class_names: class names in label order.
        n_max: number of images of the largest class.
    """

    class_names: tuple[str, ...]
    profile: str
    imbalance: float
    subset: str
    groups: str
    n_max: int


def cut_pool(dataset: str, pool: ImageSet, **cut: Unpack[Cut]) -> tuple[LongTail, ImageSet]:
    """Cut a long tail out of a pool of training images; returns its description and images.

    Raises:
        UserError: a class with fewer images than the profile requires, or anything that :class:`LongTail` refuses.
    """
    names, profile, imbalance, n_max = cut["class_names"], cut["profile"], cut["imbalance"], cut["n_max"]
    counts = profile_counts(profile, imbalance, len(names), n_max, class_names=names)
    check_present(profile, counts, pool.class_samples(len(names)).tolist(), n_max, names)
    longtail = LongTail(dataset, names, profile, float(imbalance), cut["subset"], counts, cut["groups"])
    return longtail, pool.subset(select_indices(pool.labels, counts, cut["subset"]))


@dataclass(frozen=True, eq=False, repr=False)
class LongTailData:
    """A long-tailed training set and a balanced test set.

    Attributes:
        longtail: description of the training set.
        train: training images.
        test: test images.
        augmentation: augmentation of training images, a name in :data:`sharpness.data.AUGMENTATIONS`.
        padding: pixels of padding on each side before the random crop.
        default_model: name of a registered model for these images.
        usual_augmentation: default augmentation of these images.
        val: validation images, or None.
        open: images of an open set, whose classes are not trained on, with label -1; or None.

    Raises:
        UserError: a label outside ``[0, C)``, or an unknown augmentation.
    """

    longtail: LongTail
    train: ImageSet
    test: ImageSet
    augmentation: str
    padding: int
    default_model: str
    usual_augmentation: str = ""
    val: ImageSet | None = None
    open: ImageSet | None = None

    def __post_init__(self) -> None:
        choose("augmentation", self.augmentation, AUGMENTATIONS)
        if not self.usual_augmentation:
            object.__setattr__(self, "usual_augmentation", self.augmentation)
        for part in (self.train, self.test, *([self.val] if self.val else [])):
            check_labels(part.labels, self.num_classes)

    @classmethod
    def from_pool(
        cls,
        dataset: str,
        pool: ImageSet,
        test: ImageSet,
        *,
        augmentation: str,
        padding: int,
        default_model: str,
        **cut: Unpack[Cut],
    ) -> LongTailData:
        """Cut a long tail out of a pool of training images, see :func:`cut_pool`."""
        return cls(*cut_pool(dataset, pool, **cut), test, augmentation, padding, default_model)

    @classmethod
    def unread(
        cls, read: Mapping[str, Callable[[], Any]], augmentation: str, padding: int, default_model: str
    ) -> LongTailData:
        """Data whose long tail and images are read on first use.

        Args:
            read: functions that read ``longtail``, ``train`` and ``test``, under these names.
        """
        data = object.__new__(cls)
        known = {"augmentation": augmentation, "usual_augmentation": augmentation, "padding": padding}
        vars(data).update(known, default_model=default_model, _read=dict(read))
        return data

    if not TYPE_CHECKING:  # a type checker would accept any attribute because of __getattr__

        def __getattr__(self, name: str) -> Any:
            # Python only calls this for missing attributes, so not for parts that were given or read before.
            read = vars(self).get("_read", {}).get(name)
            if read is None:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            return vars(self).setdefault(name, read())

    def __getstate__(self) -> dict[str, Any]:
        """Read all fields first, because another process may not have the files."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def described(self, longtail: LongTail) -> LongTailData:
        """The same images, which may still be unread, with ``longtail`` as the description of the training set."""
        data = object.__new__(type(self))
        vars(data).update(vars(self), longtail=longtail)
        return data

    def standardized(self, constants: Standardization) -> LongTailData:
        """The same images, which may still be unread, standardised by other constants."""

        def changed(name: str) -> ImageSet | None:
            part: ImageSet | None = getattr(self, name)
            return None if part is None else replace(part, mean=constants.mean, std=constants.std)

        read = vars(self).get("_read", {})
        later = {name: partial(changed, name) for name in PARTS if name in read}
        kept = {name: value for name, value in vars(self).items() if name not in PARTS}
        data = object.__new__(type(self))
        vars(data).update(kept, _read=read | later, **{name: changed(name) for name in PARTS if name not in read})
        return data

    def part(self, name: str) -> ImageSet:
        """The training, validation, test or open-set images.

        Raises:
            UserError: the data have no such part.
        """
        choose("split", name, list(PARTS))
        found: ImageSet | None = getattr(self, name)
        if found is None:
            there = [part for part in PARTS if getattr(self, part) is not None]
            raise UserError(f"{self.longtail.dataset} has no part {name!r} here: choose one of {', '.join(there)}")
        return found

    def in_class_order(self, kind: Any) -> LongTailData:
        """The same images with their classes numbered as :func:`~sharpness.data.class_order` orders them."""
        order = class_order(self.train_counts, kind)
        new = torch.full((self.num_classes + 1,), -1)
        new[torch.tensor(order)] = torch.arange(self.num_classes)
        names, counts = tuple(self.class_names[c] for c in order), tuple(self.train_counts[c] for c in order)
        parts = {p: replace(s, labels=new[s.labels]) for p in PARTS if (s := getattr(self, p)) is not None}
        return replace(self, longtail=replace(self.longtail, class_names=names, train_counts=counts), **parts)

    def augmented(self, augmentation: str | None) -> LongTailData:
        """The same images with another augmentation in training; unchanged for None."""
        return self if augmentation is None else replace(self, augmentation=augmentation)

    @property
    def other_augmentation(self) -> str | None:
        """The augmentation if it is not the usual one, else None; part of a run's name and identity."""
        return None if self.augmentation == self.usual_augmentation else self.augmentation

    class_counts = renamed_attribute("class_counts", "train_counts")

    @property
    def train_counts(self) -> tuple[int, ...]:
        """Training images per class, ``(C,)``."""
        return self.longtail.train_counts

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in label order, ``(C,)``."""
        return self.longtail.class_names

    @property
    def groups(self) -> Groups:
        """Class indices under ``many``, ``medium`` and ``few``."""
        return self.longtail.groups

    @property
    def num_classes(self) -> int:
        """C."""
        return self.longtail.num_classes

    def __repr__(self) -> str:
        return f"LongTailData({self.longtail!r}, {len(self.train)} training and {len(self.test)} test images)"
