"""Orders in which repositories number their classes: by label, or from most to fewest training images.

MiSLAS, GCL on Places-LT and Saddle-LongTail write ``class_map[np.argsort(-counts)[i]] = i``. NumPy's default argsort is
not stable: classes of equal number come as the algorithm leaves them, and 866 of ImageNet-LT's 1000 classes share their
number with others. Before NumPy 1.25, which is what released weights were trained with, the algorithm was introsort on
every processor (:func:`introsort`); since then it depends on the processor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sharpness.errors import UserError
from sharpness.untrusted.plain_json import read_json
from sharpness.untrusted.refused import Refused

CLASS_ORDERS = {
    "label": "label order",
    "introsort": "descending training count, ties as NumPy's introsort leaves them",
    "stable": "descending training count, ties in label order",
}


def introsort(values: Sequence[float] | np.ndarray) -> list[int]:
    """Sort ascending as ``np.argsort(values)`` did before NumPy 1.25, ties included.

    Quicksort with the median of three as pivot, whose larger part waits on a stack; partitions of up to 16 elements
    by insertion; heapsort below a depth of twice the binary logarithm of the length.

    Returns:
        Indices of the values, smallest first.

    >>> introsort([3, 1, 2, 1])
    [1, 3, 2, 0]
    """
    # As objects: NumPy compares these one by one, by that algorithm to this day, where for numbers it has others now,
    # which depend on the processor and put ties in another order.
    return np.argsort(np.asarray(values).astype(object), kind="quicksort").tolist()


_ORDERS: dict[str, Callable[[np.ndarray], list[int]]] = {
    "label": lambda counts: list(range(len(counts))),
    "introsort": lambda counts: introsort(-counts),
    "stable": lambda counts: np.argsort(-counts, kind="stable").tolist(),
}


def class_order(counts: Sequence[int] | np.ndarray, kind: Any = "introsort") -> tuple[int, ...]:
    """Labels of the classes in the order in which a repository numbers them, ``(C,)``.

    Args:
        counts: training images per class, ``(C,)``.
        kind: a name of :data:`CLASS_ORDERS`, or anything that :func:`check_class_order` takes.

    Returns:
        The label of class 0 of the model, that of class 1, and so on.

    Raises:
        UserError: an unknown order, or a permutation of another number of classes.

    >>> class_order((5, 90, 5, 80), "stable")
    (1, 3, 0, 2)
    >>> class_order((5, 90, 5, 80), [3, 2, 1, 0])
    (3, 2, 1, 0)
    """
    kind = check_class_order(kind)
    if isinstance(kind, str):
        return tuple(_ORDERS[kind](np.asarray(counts, dtype=np.int64)))
    if len(kind) != len(counts):
        raise UserError(f"class_order has {len(kind)} labels for {len(counts)} classes: give each of them once")
    return tuple(kind)


def check_class_order(kind: Any) -> str | list[int]:
    """A name of :data:`CLASS_ORDERS`, or a permutation as a list.

    Args:
        kind: a name; labels in the order in which the model numbers them; or a JSON file of such a list.

    Raises:
        UserError: it is none of these.

    >>> check_class_order("label"), check_class_order((1, 0))
    ('label', [1, 0])
    """
    if isinstance(kind, str) and kind in CLASS_ORDERS:
        return kind
    given = kind
    if isinstance(kind, str | Path):
        if Path(kind).suffix != ".json":
            known = ", ".join(CLASS_ORDERS)
            raise UserError(f"unknown class order {str(kind)!r}: choose one of {known}, or a .json file with a list")
        try:
            given = read_json(kind)
        except Refused as error:
            raise UserError(f"cannot read the class order from {kind}: it {error}") from None
    given = given.tolist() if hasattr(given, "tolist") else given
    labels = list(given) if isinstance(given, list | tuple) else []
    if not labels or any(type(label) is not int for label in labels) or sorted(labels) != list(range(len(labels))):
        raise UserError(f"class_order must have each label from 0 on once, or be one of {', '.join(CLASS_ORDERS)}")
    return labels


def describe_order(kind: str | Sequence[int]) -> str:
    """A description of what :func:`check_class_order` returns.

    >>> describe_order("label"), describe_order([2, 1, 0])
    ('label order', 'as given: 2, 1, 0')
    """
    if isinstance(kind, str):
        return CLASS_ORDERS[kind]
    return f"as given: {', '.join(map(str, kind[:6]))}" + (", ..." if len(kind) > 6 else "")
