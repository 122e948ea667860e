"""The user's own data: class folders, a list of files, an ``.npz``, or any map-style dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpness.data.arrays import (
    LAYOUTS,
    channels_first,
    eight_bit,
    name_classes,
    opened_counts,
    pixel_statistics,
    read_npz,
    read_train_counts,
)
from sharpness.data.by_class import by_class, labelled, ordered_names
from sharpness.data.class_orders import check_class_order, class_order
from sharpness.data.content import CHUNK, Content, pixel_digests, undone, value_digests
from sharpness.data.dataset import ImageSet
from sharpness.data.image_files import ImageFiles, class_folders, listed, read_files
from sharpness.data.labels import check_limit, first_of_each
from sharpness.data.pictures import to_tensor
from sharpness.data.standardization import Standardization, require_shares
from sharpness.data.tensors import as_tensors
from sharpness.errors import UserError, choose
from sharpness.identity import PIXELS, VALUES
from sharpness.renamed import renamed_arguments, renamed_attribute


@renamed_arguments(class_counts="train_counts")
@dataclass(frozen=True, eq=False, repr=False)
class ForeignData:
    """Labelled samples with their normalisation, class names and training counts.

    An :class:`sharpness.Objective` accepts it as data.

    Attributes:
        inputs: 8-bit images ``(n, ch, h, w)``, or numbers ``(n, ...)``.
        labels: ``(n,)`` int64.
        mean: mean per channel, for pixels in [0, 1] if images are 8-bit; None leaves numbers unchanged.
        std: standard deviation per channel, given with ``mean``.
        class_names: ``(C,)``.
        train_counts: ``(C,)`` training images per class, which may differ from the counts of these samples.
        class_totals: ``(C,)`` samples per class before ``limit_per_class``.
        estimated: whether mean and std were computed from these samples rather than given.
        digests: ``(n,)`` uint64, digests of the pixels of image files before resize and crop; None for other samples.
    """

    inputs: Tensor
    labels: Tensor
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    class_names: tuple[str, ...]
    train_counts: tuple[int, ...]
    class_totals: tuple[int, ...]
    estimated: bool = False
    digests: np.ndarray | None = None
    class_counts = renamed_attribute("class_counts", "train_counts")

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.class_names)

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """Normalised inputs ``(n, ...)`` and labels ``(n,)``."""
        if self.inputs.dtype == torch.uint8:
            return self.image_set.tensors
        if self.mean is None or self.std is None:
            return self.inputs, self.labels
        mean, std = (self.inputs.new_tensor(v)[:, None, None] for v in (self.mean, self.std))
        return (self.inputs - mean) / std, self.labels

    @property
    def image_set(self) -> ImageSet:
        """The same samples as an :class:`ImageSet`.

        Raises:
            UserError: the samples are not 8-bit images.
        """
        if self.mean is None or self.std is None:
            raise UserError("these samples are no 8-bit images: take .tensors")
        return ImageSet(self.inputs, self.labels, self.mean, self.std)

    @property
    def content(self) -> Content:
        """The content that identifies the samples: pixels of the files, or numbers before normalisation."""
        pixels, known = self.inputs, self.digests
        if known is not None:
            return Content(PIXELS, lambda: known, self.mean, self.std)
        if pixels.dtype != torch.uint8:
            try:
                # In pieces, because undoing takes several copies in double precision.
                pixels = torch.cat([undone(part, (0.0,), (1.0,)) for part in pixels.split(CHUNK)])
            except UserError:
                return Content(VALUES, lambda: value_digests(self.inputs), self.mean, self.std)
        return Content(PIXELS, lambda: pixel_digests(pixels), self.mean, self.std)

    @property
    def weights(self) -> Tensor:
        """The number of samples that each sample represents, ``(n,)``: 1 unless classes were limited."""
        here = torch.bincount(self.labels, minlength=self.num_classes)
        return (torch.tensor(self.class_totals) / here)[self.labels]

    def in_class_order(self, kind: Any = "introsort") -> ForeignData:
        """The same samples with classes numbered by :func:`~sharpness.data.class_order`.

        Args:
            kind: the order, as for that function.

        Raises:
            UserError: all classes have the same number of images, which does not determine an order by number.
        """
        kind = check_class_order(kind)
        by_count = isinstance(kind, str) and kind != "label"
        if by_count and len(set(self.train_counts)) == 1 < self.num_classes:
            raise UserError(
                f"every class has {self.train_counts[0]} images, and the model numbers classes by their training "
                "images: give train_counts (--train-counts), or class_order='label' (--class-order label)"
            )
        order = class_order(self.train_counts, kind)
        new = torch.empty(self.num_classes, dtype=torch.int64)
        new[torch.tensor(order)] = torch.arange(self.num_classes)
        return replace(
            self,
            labels=new[self.labels],
            class_names=tuple(self.class_names[c] for c in order),
            train_counts=tuple(self.train_counts[c] for c in order),
            class_totals=tuple(self.class_totals[c] for c in order),
        )

    def limit_per_class(self, n: int) -> ForeignData:
        """The first ``n`` samples of each class; ``train_counts`` do not change.

        Raises:
            UserError: ``n`` below 1.
        """
        kept = first_of_each(self.labels, n)
        digests = None if self.digests is None else self.digests[kept.numpy()]
        return replace(self, inputs=self.inputs[kept], labels=self.labels[kept], digests=digests)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.inputs.shape[1:]))
        return f"ForeignData({len(self)} samples, {shape}, {self.num_classes} classes)"


@renamed_arguments(class_counts="train_counts")
def read_images(
    source: Any,
    *,
    root: str | Path | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: int | None = None,
    resize: int | None = None,
    channels: int = 3,
    layout: str = "auto",
    class_names: Sequence[str] | None = None,
    train_counts: Any = None,
    limit_per_class: int | None = None,
) -> ForeignData:
    """Read labelled images of one's own; those of 16 bits are brought to 8.

    Args:
        source: a folder with one folder of images per class (labels in the order of sorted names); a list file,
            ``.txt`` or ``.txt.gz``, with ``path label`` a line; an ``.npz`` with ``x`` and ``y`` (or ``images`` and
            ``labels``); ``(x, y)``; or a map-style dataset.
        root: where the paths of a list begin; the list's folder unless given. This, ``size``, ``resize`` and
            ``channels`` do not apply to an ``.npz`` or a dataset, which is taken as it is.
        mean: per channel, of pixels in [0, 1]; that of these samples unless given, for 8-bit images. Other numbers
            are left as they are unless it is given.
        std: per channel, with ``mean``.
        size: side of the central square of image files that is kept; None keeps them whole.
        resize: the shorter side before that crop; ``size`` by default. ImageNet's usual protocol is 224 of 256.
        channels: 3 or 1, of image files.
        layout: of arrays of images: ``channels first``, ``channels last``, or ``auto``, which reads images of 8 or 16
            bits by their shape and takes other numbers as they are.
        class_names: in label order, or with their labels; folder names, ``dataset.classes`` or the numbers unless
            given.
        train_counts: training images per class, a list, ``{folder: images}``, which may name more classes than have
            images here, or a JSON file of either; those of these samples unless given.
        limit_per_class: largest number of samples of each class that are read. Mean and std are computed from these
            samples alone, unless given.

    Raises:
        UserError: anything that cannot be read; the message names the file and the remedy in one line.

    >>> x = torch.tensor([[[[0, 255]]], [[[255, 255]]]], dtype=torch.uint8)
    >>> data = read_images((x, torch.tensor([0, 1])), mean=(0.5,), std=(0.5,))
    >>> data.tensors[0].flatten().tolist(), data.train_counts
    ([-1.0, 1.0, 1.0, 1.0], (1, 1))
    """
    _check(size, resize, channels, layout, limit_per_class)
    if is_arrays(source):
        idle = {"root": root, "size": size, "resize": resize}
        if told := [f"{name}={value}" for name, value in idle.items() if value is not None]:
            raise UserError(
                f"{', '.join(told)}: only for image files, an .npz or a dataset is taken as it is: leave it out"
            )
    constants, class_names = Standardization.given(mean, std), ordered_names(class_names)
    given_counts = opened_counts(train_counts)
    counts, named = (None, None) if given_counts is None else read_train_counts(given_counts)
    files: ImageFiles | None = None
    digests: np.ndarray | None = None
    inputs = torch.empty(0)
    if not isinstance(source, str | Path):
        inputs, labels = _of_dataset(source)
        class_names = class_names if class_names is not None else getattr(source, "classes", None)
    elif is_arrays(source):
        inputs, labels = read_npz(Path(source))
    else:
        files = _files(Path(source), root, class_names or named)
        labels, class_names = torch.tensor(files.labels), files.class_names or class_names
    if files is None and (inputs.ndim == 0 or len(inputs) != len(labels)):
        raise UserError(f"{tuple(inputs.shape)} inputs and {tuple(labels.shape)} labels: give one label for each input")
    labels = labels if labels.is_floating_point() else labels.long()
    if counts is not None and named is not None:
        known = tuple(map(str, class_names or ()))
        if sorted(known) != list(named):
            raise UserError(f"class counts of {', '.join(named[:3])}, ... and other classes here: take labels as keys")
        counts = tuple(counts[named.index(name)] for name in known)
    elif (
        class_names is not None
        and (entries := labelled(given_counts)) is not None
        and set(map(str, class_names)) == set(map(str, entries))
    ):
        # Keys 0, 1, 2, ... may be names of folders, which are sorted as text: 0, 1, 10, 2.
        counts, _ = read_train_counts(by_class(entries, class_names, "train_counts"))
    # Only the labels of files are known here: files beyond the limit are counted, but not opened.
    names, counts = name_classes(labels, class_names, counts)
    # Computed before the limit, because the totals count all images of a class.
    totals = tuple(torch.bincount(labels, minlength=len(names)).tolist())
    if files is not None:
        files = files.limit_per_class(limit_per_class) if limit_per_class is not None else files
        inputs, digests = read_files(files, size=size, resize=resize, channels=channels)
        labels = torch.tensor(files.labels)
    elif inputs.dtype == torch.uint16 and inputs.ndim in (3, 4):
        inputs = channels_first(eight_bit(inputs), layout)
    elif inputs.dtype == torch.uint8 or layout != "auto":
        inputs = channels_first(inputs, layout)
    if files is None and channels == 1 and inputs.dtype == torch.uint8 and inputs.shape[1] != 1:
        raise UserError(f"channels=1: only for image files, these images have {inputs.shape[1]} channels: leave it out")
    data = ForeignData(inputs.contiguous(), labels, None, None, names, counts, totals, digests=digests)
    if files is None and limit_per_class is not None:
        data = data.limit_per_class(limit_per_class)
    return _normalized(data, constants)


def is_arrays(source: Any) -> bool:
    """True for an ``.npz`` or a dataset, whose samples are taken as they are; False for paths of image files."""
    return not isinstance(source, str | Path) or (Path(source).suffix == ".npz" and Path(source).is_file())


def _check(size: int | None, resize: int | None, channels: int, layout: str, limit: int | None) -> None:
    choose("layout", layout, LAYOUTS)
    if channels not in (1, 3):
        raise UserError(f"channels {channels}: choose 3 for colour or 1 for grey")
    if limit is not None:
        check_limit(limit)
    if size is not None and size < 1:
        raise UserError(f"size {size}: give a side of at least 1 pixel")
    if resize is not None and (size is None or resize < size):
        raise UserError(f"resize {resize} and size {size}: give the side after the crop too, no larger than resize")


def _files(path: Path, root: str | Path | None, class_names: Sequence[str] | None) -> ImageFiles:
    if not path.exists():
        raise UserError(f"there is no {path}: give a folder of class folders, a list 'path label' or an .npz")
    if not path.is_dir():
        return listed(path, Path(root) if root else None)
    if root is not None:
        raise UserError(f"root={root}: only for the paths of a list, and {path} is a folder: leave it out")
    return class_folders(path, class_names)


class _Plain:
    """A map-style dataset, or ``(x, y)``, with Pillow images converted to tensors."""

    def __init__(self, source: Any) -> None:
        self.source = source
        if hasattr(source, "tensors"):
            self.tensors = source.tensors
        elif isinstance(source, tuple | list) and len(source) == 2 and not isinstance(source[0], tuple | list):
            self.tensors = tuple(source)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        sample = self.source[index]
        if not isinstance(sample, tuple | list) or len(sample) < 2:
            raise UserError(f"sample {index} is a {type(sample).__name__}: a dataset must return (input, label)")
        return (to_tensor(sample[0]) if hasattr(sample[0], "getbands") else torch.as_tensor(sample[0])), sample[1]


def _of_dataset(source: Any) -> tuple[Tensor, Tensor]:
    """Inputs and labels on the CPU; labels of shape (n, 1) are flattened."""
    map_style = hasattr(source, "__getitem__") and hasattr(source, "__len__") and len(source)
    x, y = (t.cpu() for t in as_tensors(_Plain(source) if map_style else source))
    return x, y.reshape(-1) if y.shape == (len(y), 1) else y


def _normalized(data: ForeignData, given: Standardization | None) -> ForeignData:
    if data.inputs.dtype not in (torch.uint8, torch.float64):
        data = replace(data, inputs=data.inputs.float())
    if given is None and data.inputs.dtype != torch.uint8:
        return data
    used = given or Standardization(*pixel_statistics(data.inputs))
    channels = data.inputs.shape[1] if data.inputs.ndim == 4 else 0
    if used.channels != channels:
        raise UserError(f"mean {used.mean} and std {used.std}: give {channels} values each")
    if data.inputs.dtype == torch.uint8:
        require_shares(used.mean, used.std)
    return replace(data, mean=used.mean, std=used.std, estimated=given is None)
