"""Many, medium and few: the groups of classes for which long-tailed accuracy is reported.

Papers use different thresholds, so every result records its convention:

* ``oltr``: many n >= 100, medium 20 < n < 100, few n <= 20 (Liu et al., CVPR 2019; CC-SAM's code),
* ``classifier-balancing``: many n > 100, medium 20 <= n <= 100, few n < 20 (Kang et al., ICLR 2020),
* ``mislas``: cuts by rank in descending order of counts, with ties in the order of its code (Zhong et al., CVPR 2021;
  :mod:`~sharpness.data.class_orders`),
* ``focal-sam``: thresholds that depend on the data set and the imbalance (Li et al., ICML 2025),
* ``"<high>,<low>"``: many n > high, few n < low, medium between; for example ``"100,20"``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from sharpness.data.by_class import by_class
from sharpness.data.class_orders import class_order
from sharpness.errors import UserError, shown

Groups = dict[str, tuple[int, ...]]
#: The default convention for training counts.
CONVENTION = "oltr"

_MISLAS_CUTS = {10: (3, 7), 100: (36, 71), 365: (131, 288), 1000: (390, 835), 8142: (842, 4543)}
_FOCAL_SAM: dict[tuple[int, float], tuple[int, int]] = {
    (10, 100): (1000, 200),
    (10, 10): (2319, 835),
    (100, 100): (100, 20),
    (100, 10): (265, 99),
}


def _split(counts: Sequence[int], many: Callable[[int], bool], few: Callable[[int], bool]) -> Groups:
    return {
        "many": tuple(c for c, n in enumerate(counts) if many(n)),
        "medium": tuple(c for c, n in enumerate(counts) if not many(n) and not few(n)),
        "few": tuple(c for c, n in enumerate(counts) if few(n)),
    }


def _mislas(counts: Sequence[int], imbalance: float | None) -> Groups:
    if len(counts) not in _MISLAS_CUTS:
        raise UserError(
            f"group convention 'mislas' has no cuts for {len(counts)} classes (only for "
            f"{', '.join(map(str, _MISLAS_CUTS))}): choose 'oltr' or thresholds such as '100,20'"
        )
    first, second = _MISLAS_CUTS[len(counts)]
    # The cuts of the large sets lie between classes of equal size, so they depend on how MiSLAS's code orders ties.
    # Classes that are already numbered by rank, as in that code, must not be ordered again.
    ranked = all(n >= m for n, m in pairwise(counts))
    order = range(len(counts)) if ranked else class_order(counts, "introsort")
    return {
        "many": tuple(sorted(order[:first])),
        "medium": tuple(sorted(order[first:second])),
        "few": tuple(sorted(order[second:])),
    }


def _focal_sam(counts: Sequence[int], imbalance: float | None) -> Groups:
    if imbalance is None or (len(counts), imbalance) not in _FOCAL_SAM:
        raise UserError(
            f"group convention 'focal-sam' has no thresholds for {len(counts)} classes at {imbalance} "
            "(only for 10 or 100 classes at 10 or 100): choose 'oltr' or thresholds such as '100,20'"
        )
    high, low = _FOCAL_SAM[len(counts), imbalance]
    return _split(counts, lambda n: n > high, lambda n: n < low)


GROUP_CONVENTIONS: dict[str, Callable[[Sequence[int], float | None], Groups]] = {
    "oltr": lambda counts, imbalance: _split(counts, lambda n: n >= 100, lambda n: n <= 20),
    "classifier-balancing": lambda counts, imbalance: _split(counts, lambda n: n > 100, lambda n: n < 20),
    "mislas": _mislas,
    "focal-sam": _focal_sam,
}


def _thresholds(convention: str) -> tuple[float, float]:
    try:
        high, low = (float(part) for part in convention.split(","))
    except (ValueError, AttributeError):
        high = low = math.nan
    if not (math.isfinite(high) and math.isfinite(low)):
        raise UserError(
            f"unknown group convention {convention!r}: choose one of {', '.join(GROUP_CONVENTIONS)}, "
            "or thresholds such as '100,20'"
        )
    if high < low:
        raise UserError(f"group thresholds {convention!r}: give the higher one first, for example '100,20'")
    return high, low


def check_convention(convention: str) -> None:
    """Raise a :class:`UserError` unless ``convention`` is a known name or a pair of thresholds."""
    if convention not in GROUP_CONVENTIONS:
        _thresholds(convention)


def class_groups(counts: Sequence[int], convention: str, imbalance: float | None = None) -> Groups:
    """Class indices of each group, ascending; a group may be empty.

    Args:
        counts: training images per class, ``(C,)``, or a mapping by label.
        convention: a name in :data:`GROUP_CONVENTIONS` or ``"<high>,<low>"``.
        imbalance: imbalance of the data, required by ``focal-sam``.

    Returns:
        ``{"many": ..., "medium": ..., "few": ...}``, always with these three keys.

    Raises:
        UserError: an unknown convention, or one that does not apply to these data.

    >>> class_groups((500, 101, 100, 21, 20, 5), "oltr")
    {'many': (0, 1, 2), 'medium': (3,), 'few': (4, 5)}
    >>> class_groups((500, 101, 100, 21, 20, 5), "100,20")
    {'many': (0, 1), 'medium': (2, 3, 4), 'few': (5,)}
    """
    counts = by_class(counts, range(len(counts)), "counts")
    if convention in GROUP_CONVENTIONS:
        return GROUP_CONVENTIONS[convention](counts, imbalance)
    high, low = _thresholds(convention)
    return _split(counts, lambda n: n > high, lambda n: n < low)


def training_counts(given: Any, classes: int, names: Sequence[Any] | None = None) -> np.ndarray:
    """Training images per class, (C,).

    Args:
        given: numbers in the order of the classes, or a mapping or Series by their labels or names.
        names: names of the classes.

    Raises:
        UserError: anything but one number, at least 0, for each class.
    """
    counts = np.asarray(by_class(given, range(classes) if names is None else names, "train_counts"))
    if counts.shape != (classes,) or counts.dtype.kind not in "iuf" or not (counts >= 0).all():
        told = shown(str(counts.tolist()))
        raise UserError(f"train_counts={told}: give one number, at least 0, for each of the {classes} classes")
    return counts


def named_groups(
    groups: Mapping[str, Sequence[int | str]] | str | None, counts: np.ndarray | None, class_names: Sequence[str]
) -> Groups:
    """Class indices of each group, from indices or names of classes, or from a convention and training counts.

    Raises:
        UserError: a convention without training counts, or a group with an unknown class.

    >>> named_groups({"pets": ["cat", 1]}, None, ("cat", "dog", "ship"))
    {'pets': (0, 1)}
    """
    if isinstance(groups, str):
        if counts is None:
            raise UserError(f"groups={groups!r} are by training images: give train_counts=, or {{name: classes}}")
        return class_groups(counts.tolist(), groups)
    return {str(name): _members(str(name), classes, class_names) for name, classes in (groups or {}).items()}


def _members(group: str, classes: Any, class_names: Sequence[str]) -> tuple[int, ...]:
    if isinstance(classes, str) or not hasattr(classes, "__iter__"):
        raise UserError(f"group {group!r} is {classes!r}: give a list of classes")
    found = [class_names.index(c) if isinstance(c, str) and c in class_names else c for c in classes]
    for c in found:
        if isinstance(c, str) or c not in range(len(class_names)):
            raise UserError(f"group {group!r} has class {c!r}, outside 0..{len(class_names) - 1}: correct groups")
    return tuple(dict.fromkeys(int(c) for c in found))
