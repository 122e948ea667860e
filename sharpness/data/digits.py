"""A long tail of handwritten digits without a download: the 8x8 digits that come with scikit-learn.

Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from sharpness.data.dataset import ImageSet, LongTailData
from sharpness.data.longtail import check_recipe

TEST_PER_CLASS = 50


def digit_pools() -> tuple[ImageSet, ImageSet]:
    """All 1,797 digits as training pool and test set, one channel of 8x8.

    The last 50 images of each class, in the data set's order, are the test set for every recipe. Grey levels 0..16
    become ``round(v * 255 / 16)``. Mean and standard deviation are those of the pool, so they do not depend on the long
    tail.
    """
    table = _table()
    images = torch.from_numpy(np.rint(table[:, :-1] * 255 / 16).astype(np.uint8).reshape(-1, 1, 8, 8))
    labels = torch.from_numpy(table[:, -1].astype(np.int64))
    is_test = torch.zeros(len(labels), dtype=torch.bool)
    for digit in range(10):
        is_test[torch.nonzero(labels == digit).flatten()[-TEST_PER_CLASS:]] = True
    pixels = images[~is_test].double() / 255
    mean, std = (float(pixels.mean()),), (float(pixels.std(correction=0)),)
    return (
        ImageSet(images[~is_test], labels[~is_test], mean, std),
        ImageSet(images[is_test], labels[is_test], mean, std),
    )


def _table() -> np.ndarray:
    """64 grey levels and the label of every digit, (1797, 65).

    The file of scikit-learn is read directly, because importing ``sklearn.datasets`` takes two seconds per process.
    """
    package = find_spec("sklearn")
    folders = package.submodule_search_locations if package and package.submodule_search_locations else []
    for folder in folders:
        if (file := Path(folder) / "datasets" / "data" / "digits.csv.gz").is_file():
            with gzip.open(file, "rt", encoding="utf-8") as lines:
                return np.loadtxt(lines, delimiter=",")
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return np.column_stack([images, labels])


def load_digits_lt(
    profile: str = "exp", imbalance: float = 30, subset: str = "ldam_seed0", groups: str = "oltr"
) -> LongTailData:
    """Load ``digits-lt``: a long tail of scikit-learn's digits, and 500 balanced test images.

    ``n_max`` is the size of the pool's smallest class, 124, so every imbalance up to 124 is possible; the default of 30
    leaves 4 images of the rarest digit. The augmentation is a crop with padding 1, without mirroring, because a
    mirrored digit is a different sign.

    Args:
        profile: ``exp``, ``step`` or ``exp_m2m``.
        imbalance: ``n_max / n_min``.
        subset: ``ldam_seed0``, ``seed:<int>`` or ``first_n``.
        groups: the group convention.

    Raises:
        UserError: an unknown choice, or an imbalance that leaves a class without images.

    >>> load_digits_lt().train_counts
    (124, 84, 58, 39, 27, 18, 12, 8, 6, 4)
    """
    check_recipe(profile, imbalance, subset, groups)
    pool, test = digit_pools()
    return LongTailData.from_pool(
        "digits-lt",
        pool,
        test,
        class_names=tuple(str(digit) for digit in range(10)),
        profile=profile,
        imbalance=imbalance,
        subset=subset,
        groups=groups,
        n_max=int(pool.class_samples(10).min()),
        augmentation="crop",
        padding=1,
        default_model="resnet8",
    )
