"""CIFAR-10-LT and CIFAR-100-LT from the official python files.

Source: Krizhevsky 2009 (the images); Cui et al., CVPR 2019 and Cao et al., NeurIPS 2019 (the long tails).
Normalisation and augmentation are LDAM-DRW's, with the statistics of CIFAR-10 for both data sets.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sharpness.data.dataset import ImageSet, LongTailData
from sharpness.data.download import ARCHIVES, download
from sharpness.data.longtail import check_recipe
from sharpness.data.unpickle import read_pickle
from sharpness.errors import UserError, choose

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


@dataclass(frozen=True)
class Layout:
    """Where one release keeps what: file names, keys, and the group convention its papers use."""

    train: tuple[str, ...]
    test: str
    meta: str
    labels: str
    names: str
    num_classes: int
    groups: str


LAYOUTS: dict[str, Layout] = {
    "cifar10": Layout(
        tuple(f"data_batch_{k}" for k in range(1, 6)),
        "test_batch",
        "batches.meta",
        "labels",
        "label_names",
        10,
        "mislas",
    ),
    "cifar100": Layout(("train",), "test", "meta", "fine_labels", "fine_label_names", 100, "oltr"),
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
    """``cifar10-lt`` or ``cifar100-lt``: a long tail of the training files and the whole test file.

    ``n_max`` is the largest class of the files at hand (5000 or 500 in the official release), and nothing in
    the files is run (see :mod:`sharpness.data.unpickle`).

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
    check_recipe(profile, imbalance, subset, groups)
    folder = _folder(name, layout, data_root, download)
    remedy = f"unpack {ARCHIVES[name].url} again in {folder.parent}, or delete the file and pass --download"
    pool = _read_split([folder / file for file in layout.train], layout, remedy)
    return LongTailData.from_pool(
        f"{name}-lt",
        pool,
        _read_split([folder / layout.test], layout, remedy),
        class_names=_read_names(folder / layout.meta, layout, remedy),
        profile=profile,
        imbalance=imbalance,
        subset=subset,
        groups=groups,
        n_max=int(pool.class_counts(layout.num_classes).max()),
        augmentation="crop-flip",
        padding=4,
        default_model="resnet32",
    )


def _folder(name: str, layout: Layout, data_root: str | Path | None, fetch: bool) -> Path:
    """The folder of the files, fetched if asked for and incomplete."""
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
    """The images ``(n, 3, 32, 32)`` and labels of some files, one after the other."""
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
        raise UserError(f"{path} should hold {len(rows)} whole numbers as {layout.labels!r}: {remedy}")
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
