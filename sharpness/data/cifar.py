"""CIFAR-10 and CIFAR-100, and their long tails, from the official python files.

Source: Krizhevsky 2009 (the images); Cui et al., CVPR 2019 and Cao et al., NeurIPS 2019 (the long tails).
Normalisation and augmentation are LDAM-DRW's, with the statistics of CIFAR-10 for both data sets.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sharpness.data.dataset import ImageSet, LongTailData, cut_pool
from sharpness.data.download import ARCHIVES, download, md5_of
from sharpness.data.longtail import LongTail, check_recipe
from sharpness.data.unpickle import read_pickle
from sharpness.errors import UserError, choose

logger = logging.getLogger("sharpness")

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


@dataclass(frozen=True)
class Layout:
    """The layout of one release: file names, keys, its size, and the group convention of its papers.

    Attributes:
        per_class: training images of each class in the official release.
        md5: MD5 checksums of its image files.
    """

    train: tuple[str, ...]
    test: str
    meta: str
    labels: str
    names: str
    num_classes: int
    groups: str
    per_class: int
    md5: Mapping[str, str]


LAYOUTS: dict[str, Layout] = {
    "cifar10": Layout(
        tuple(f"data_batch_{k}" for k in range(1, 6)),
        "test_batch",
        "batches.meta",
        "labels",
        "label_names",
        10,
        "mislas",
        5000,
        {
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
        },
    ),
    "cifar100": Layout(
        ("train",),
        "test",
        "meta",
        "fine_labels",
        "fine_label_names",
        100,
        "oltr",
        500,
        {"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    ),
}


def load_cifar_lt(
    name: str,
    data_root: str | Path | None = None,
    profile: str = "exp",
    imbalance: float = 100,
    subset: str = "ldam_seed0",
    groups: str | None = None,
    download: bool = False,
) -> LongTailData:
    """Load ``cifar10-lt`` or ``cifar100-lt``: a long tail of the training files, and the whole test file.

    ``n_max`` is the largest class of the given files (5000 or 500 in the official release). No code in the files is
    run (see :mod:`sharpness.data.unpickle`). Each split is read on first use.

    Args:
        name: ``cifar10`` or ``cifar100``.
        data_root: the folder that holds ``cifar-10-batches-py`` or ``cifar-100-python``; otherwise
            ``$SHARPNESS_DATA``, otherwise the download cache (``~/.cache/sharpness``).
        profile: ``exp``, ``step`` or ``exp_m2m``.
        imbalance: ``n_max / n_min``.
        subset: ``ldam_seed0``, ``seed:<int>`` or ``first_n``.
        groups: the group convention; by default ``mislas`` for cifar10 and ``oltr`` for cifar100.
        download: fetch the official archive if files are missing.

    Raises:
        UserError: no data folder; a file that is missing, damaged, hostile or of another shape; a class with
            fewer images than the profile asks for; an unknown choice.
    """
    choose("CIFAR data set", name, list(LAYOUTS))
    layout = LAYOUTS[name]
    groups = layout.groups if groups is None else groups
    check_recipe(profile, imbalance, subset, groups)  # already here, because files are read later, on first use

    def cut(pool: ImageSet, names: tuple[str, ...]) -> tuple[LongTail, ImageSet]:
        n_max = int(pool.class_samples(len(names)).max())
        return cut_pool(
            f"{name}-lt", pool, class_names=names, profile=profile, imbalance=imbalance, subset=subset, groups=groups,
            n_max=n_max,
        )  # fmt: skip

    return _unread(name, layout, data_root, download, cut)


def load_cifar(
    name: str,
    data_root: str | Path | None = None,
    profile: str = "exp",
    imbalance: float = 1,
    subset: str = "first_n",
    groups: str | None = None,
    download: bool = False,
) -> LongTailData:
    """Load ``cifar10`` or ``cifar100``: the whole training files, in their order, and the whole test file.

    All classes are many-shot unless ``groups`` says otherwise. ``profile``, ``imbalance`` and ``subset`` only accept
    the defaults, which describe a set that keeps every image.

    Args:
        name: ``cifar10`` or ``cifar100``.
        data_root: as for :func:`load_cifar_lt`.
        groups: the group convention, ``oltr`` by default.
        download: fetch the official archive if files are missing.

    Raises:
        UserError: another profile, imbalance or subset, or files that :func:`load_cifar_lt` refuses.
    """
    choose("CIFAR data set", name, list(LAYOUTS))
    if (profile, imbalance, subset) != ("exp", 1, "first_n"):
        given = {"profile": (profile, "exp"), "imbalance": (imbalance, 1), "subset": (subset, "first_n")}
        told = ", ".join(f"{option}={value!r}" for option, (value, own) in given.items() if value != own)
        raise UserError(f"{name} is the whole set, balanced: leave {told} out, or take the long tail {name}-lt")
    groups = "oltr" if groups is None else groups
    check_recipe(profile, imbalance, subset, groups)

    def whole(pool: ImageSet, names: tuple[str, ...]) -> tuple[LongTail, ImageSet]:
        counts = tuple(pool.class_samples(len(names)).tolist())
        return LongTail(name, names, profile, float(imbalance), subset, counts, groups), pool

    return _unread(name, LAYOUTS[name], data_root, download, whole)


def _unread(
    name: str,
    layout: Layout,
    data_root: str | Path | None,
    download: bool,
    cut: Callable[[ImageSet, tuple[str, ...]], tuple[LongTail, ImageSet]],
) -> LongTailData:
    """Data that are read on first use. ``cut`` selects the training set from all training images and class names."""
    folder = _folder(name, layout, data_root, download)
    remedy = f"unpack {ARCHIVES[name].url} again in {folder.parent}, or delete the file and pass --download"
    for file in (*layout.train, layout.test, layout.meta):
        if not (folder / file).is_file():
            raise UserError(f"{folder / file} is missing: {remedy}")

    @cache
    def training() -> tuple[LongTail, ImageSet]:
        pool = _read_split([folder / file for file in layout.train], layout, remedy)
        _tell_unless_official(folder, layout, len(pool))
        return cut(pool, _read_names(folder / layout.meta, layout, remedy))

    read = {
        "longtail": lambda: training()[0],
        "train": lambda: training()[1],
        "test": lambda: _read_split([folder / layout.test], layout, remedy),
    }
    return LongTailData.unread(read, augmentation="crop-flip", padding=4, default_model="resnet32")


_told: set[Path] = set()


def _tell_unless_official(folder: Path, layout: Layout, images: int) -> None:
    """Warn once for each folder whose images, or their order, are not the official ones."""
    if folder in _told:
        return
    _told.add(folder)
    official = layout.num_classes * layout.per_class
    if images != official:
        told = f"it has {images:,} training images, and that has {official:,}"
    else:
        other = [name for name, md5 in layout.md5.items() if md5_of(folder / name) != md5]
        if not other:
            return
        told = f"{', '.join(other)} differ, in their images or the order of these"
    logger.warning(
        "%s is not the official archive: %s: a long tail cut from it has other images than published checkpoints saw",
        folder, told,
    )  # fmt: skip


def _folder(name: str, layout: Layout, data_root: str | Path | None, fetch: bool) -> Path:
    """The folder of the files, after a download if ``fetch`` is true and files are missing."""
    given = data_root or os.environ.get("SHARPNESS_DATA")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sharpness"
    root = Path(given).expanduser() if given else cache
    folder = root / ARCHIVES[name].folder
    complete = all((folder / file).is_file() for file in (*layout.train, layout.test, layout.meta))
    if fetch and not complete:
        return download(name, root)
    if not given and not folder.is_dir():
        raise UserError(f"no {name} files: pass --data-root, set SHARPNESS_DATA to their folder, or pass --download")
    if not folder.is_dir():
        raise UserError(
            f"{folder} is missing: pass --data-root or set SHARPNESS_DATA to the folder that holds "
            f"{folder.name}, or pass --download"
        )
    return folder


def _read_split(paths: list[Path], layout: Layout, remedy: str) -> ImageSet:
    """Read the images ``(n, 3, 32, 32)`` and labels of some files, in this order."""
    parts = [_read_rows(path, layout, remedy) for path in paths]
    images = torch.from_numpy(np.concatenate([rows for rows, _ in parts])).reshape(-1, 3, 32, 32)
    return ImageSet(images, torch.from_numpy(np.concatenate([labels for _, labels in parts])), MEAN, STD)


def _read_rows(path: Path, layout: Layout, remedy: str) -> tuple[np.ndarray, np.ndarray]:
    content = _read_mapping(path, remedy)
    rows = content.get("data")
    if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 3072:
        found = f"{rows.dtype} {rows.shape}" if isinstance(rows, np.ndarray) else type(rows).__name__
        raise UserError(f"{path} should hold images as uint8 (n, 3072), not {found}: {remedy}")
    labels = content.get(layout.labels)
    if not isinstance(labels, list) or len(labels) != len(rows) or not all(type(v) is int for v in labels):
        raise UserError(f"{path} should hold {len(rows)} integers as {layout.labels!r}: {remedy}")
    for index, label in enumerate(labels):
        if not 0 <= label < layout.num_classes:
            raise UserError(f"{path} has label {label} at index {index}, outside 0..{layout.num_classes - 1}: {remedy}")
    return rows, np.array(labels, dtype=np.int64)


def _read_names(path: Path, layout: Layout, remedy: str) -> tuple[str, ...]:
    names = _read_mapping(path, remedy).get(layout.names)
    if not isinstance(names, list) or len(names) != layout.num_classes:
        raise UserError(f"{path} should hold {layout.num_classes} names as {layout.names!r}: {remedy}")
    return tuple(_text(name) for name in names)


def _read_mapping(path: Path, remedy: str) -> dict[str, Any]:
    content = read_pickle(path, remedy)
    if not isinstance(content, dict):
        raise UserError(f"{path} should hold a dictionary, not {type(content).__name__}: {remedy}")
    return {_text(key): value for key, value in content.items()}


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


cifar10_lt, cifar100_lt = (partial(load_cifar_lt, name) for name in ("cifar10", "cifar100"))
cifar10, cifar100 = (partial(load_cifar, name) for name in ("cifar10", "cifar100"))
