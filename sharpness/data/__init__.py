"""Long-tailed data sets: choice of images, groups, samplers and augmentation."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from sharpness.data.augment import AUGMENTATIONS, augment, augment_batches, augmentation_label, mixup
from sharpness.data.cifar import load_cifar, load_cifar_lt
from sharpness.data.class_orders import CLASS_ORDERS, class_order
from sharpness.data.content import Content
from sharpness.data.dataset import ImageSet, LongTailData
from sharpness.data.digits import load_digits_lt
from sharpness.data.foreign import ForeignData, read_images
from sharpness.data.groups import CONVENTION, GROUP_CONVENTIONS, class_groups, named_groups, training_counts
from sharpness.data.inputs import Inputs, Layout, pack
from sharpness.data.longtail import LongTail, select_indices
from sharpness.data.profiles import PROFILES, profile_counts
from sharpness.data.samplers import SAMPLERS, epoch_indices
from sharpness.data.targets import (
    Classes,
    answers_of,
    are_labels,
    classes_of,
    cross_entropy_targets,
    number_of,
    plain_targets,
    told_of,
)
from sharpness.data.tensors import as_tensors, column, is_data, read_once, read_samples
from sharpness.errors import UserError, choose
from sharpness.identity import ONE_CLASS, SampleIdentity
from sharpness.registries import DATASETS
from sharpness.renamed import renamed_names

__all__ = [
    "AUGMENTATIONS",
    "CLASS_ORDERS",
    "CONVENTION",
    "DATASETS",
    "GROUP_CONVENTIONS",
    "ONE_CLASS",
    "PROFILES",
    "SAMPLERS",
    "Classes",
    "Content",
    "ForeignData",
    "ImageSet",
    "Inputs",
    "Layout",
    "LongTail",
    "LongTailData",
    "SampleIdentity",
    "answers_of",
    "are_labels",
    "as_tensors",
    "augment",
    "augment_batches",
    "augmentation_label",
    "class_groups",
    "class_order",
    "classes_of",
    "column",
    "cross_entropy_targets",
    "epoch_indices",
    "is_data",
    "load_cifar",
    "load_cifar_lt",
    "load_data",
    "load_digits_lt",
    "mixup",
    "named_groups",
    "number_of",
    "pack",
    "plain_targets",
    "profile_counts",
    "read_images",
    "read_once",
    "read_samples",
    "select_indices",
    "told_of",
    "training_counts",
]

_FILE_OPTIONS = ("data_root", "download", "lists", "size", "resize")


if not TYPE_CHECKING:  # a type checker would accept any name because of __getattr__
    __getattr__ = renamed_names(__name__, class_counts=("sharpness.data.profile_counts", lambda: profile_counts))


def load_data(name: str, **options: Any) -> LongTailData:
    """Load a data set by name.

    Args:
        name: ``digits-lt`` (embedded); ``cifar10-lt`` or ``cifar100-lt``, or the whole ``cifar10`` or ``cifar100``; or
            ``imagenet-lt``, ``places-lt``, ``inat18`` or ``list``, which are read from your disk.
        options: ``profile``, ``imbalance``, ``subset`` and ``groups`` for all; also ``data_root`` and ``download`` for
            CIFAR; for lists, those of :func:`~sharpness.data.listed_data.load_listed`, whose ``data_root`` may also be
            called ``root``. An option that is None keeps its default.

    Returns:
        Long-tailed training images, and test images.

    Raises:
        UserError: an unknown name or option, or data that the loader refuses.

    >>> load_data("digits-lt", imbalance=10).train_counts
    (124, 96, 74, 57, 44, 34, 26, 20, 16, 12)
    """
    loader = DATASETS.choose(name)
    known = [option for option in inspect.signature(loader).parameters if option != "name"]
    if "root" in options and "root" not in known:
        options = {**options, "data_root": options.get("data_root") or options["root"]}
        del options["root"]
    given = {option: value for option, value in options.items() if value is not None}
    for option in options:
        if option in known:
            continue
        if option not in _FILE_OPTIONS:
            choose(f"option of {name}", option, known)
        if given.pop(option, False):
            raise UserError(f"{option} does not apply to {name}: leave it out")
    return loader(**given)
