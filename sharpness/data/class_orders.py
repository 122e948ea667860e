"""Orders in which repositories number their classes: by label, or from most to fewest training images.

MiSLAS, GCL on Places-LT and Saddle-LongTail write ``class_map[np.argsort(-counts)[i]] = i``. NumPy's default argsort is
not stable, so the order of classes of equal size depends on the algorithm; 866 of ImageNet-LT's 1000 classes have the
same size as another one. The released weights were trained with NumPy before 1.25, where the algorithm was introsort on
every processor (:func:`introsort`); since then, it depends on the processor.
"""

from __future__ import annotations

from collections.abc import Callable, MutableSequence, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sharpness.data.by_class import by_class
from sharpness.errors import UserError
from sharpness.untrusted.plain_json import read_json
from sharpness.untrusted.refused import Refused

#: Largest partition that is sorted by insertion sort.
SMALL = 16

CLASS_ORDERS = {
    "label": "label order",
    "introsort": "descending training count, ties as NumPy's introsort leaves them",
    "stable": "descending training count, ties in label order",
}


def introsort(values: Sequence[float] | np.ndarray) -> list[int]:
    """Sort ascending as ``np.argsort(values)`` did before NumPy 1.25, ties included.

    The algorithm is quicksort with the median of three as pivot, where the larger part goes on a stack; insertion sort
    for partitions of up to 16 elements; and heapsort below a depth of twice the binary logarithm of the length.

    Returns:
        Indices of the values, smallest first.

    >>> introsort([3, 1, 2, 1])
    [1, 3, 2, 0]
    """
    # This repeats NumPy's former algorithm step by step: today's argsort orders ties differently, so classes of equal
    # size would get other numbers than when the released weights were trained.
    v = np.asarray(values).tolist()
    order = list(range(len(v)))
    waiting = [(0, len(v) - 1, 2 * (len(v).bit_length() - 1))]
    # Every detail below, such as which part goes on the stack, affects the order of ties.
    while waiting:
        low, high, depth = waiting.pop()
        if depth < 0:
            order[low : high + 1] = _heapsort(v, order[low : high + 1])
            continue
        while high - low >= SMALL:
            middle = _partition(v, order, low, high)
            depth -= 1
            if middle - low < high - middle:
                waiting.append((middle + 1, high, depth))
                high = middle - 1
            else:
                waiting.append((low, middle - 1, depth))
                low = middle + 1
        for i in range(low + 1, high + 1):
            moved, j = order[i], i
            while j > low and v[moved] < v[order[j - 1]]:
                order[j] = order[j - 1]
                j -= 1
            order[j] = moved
    return order


def _partition(v: Sequence[float], order: MutableSequence[int], low: int, high: int) -> int:
    """Partition around the median of three, and return its final position."""

    def swap(a: int, b: int) -> None:
        order[a], order[b] = order[b], order[a]

    middle = (low + high) // 2
    for a, b in ((middle, low), (high, middle), (middle, low)):
        if v[order[a]] < v[order[b]]:
            swap(a, b)
    pivot, i, j = v[order[middle]], low, high - 1
    swap(middle, j)
    while True:
        i += 1
        while v[order[i]] < pivot:
            i += 1
        j -= 1
        while pivot < v[order[j]]:
            j -= 1
        if i >= j:
            swap(i, high - 1)
            return i
        swap(i, j)


def _heapsort(v: Sequence[float], part: list[int]) -> list[int]:
    """Sort the indices of one part with a max-heap."""

    def sink(moved: int, at: int, size: int) -> None:
        child = 2 * at + 1
        while child < size:
            if child + 1 < size and v[part[child]] < v[part[child + 1]]:
                child += 1
            if not v[moved] < v[part[child]]:
                break
            part[at], at, child = part[child], child, 2 * child + 1
        part[at] = moved

    for root in reversed(range(len(part) // 2)):
        sink(part[root], root, len(part))
    for last in reversed(range(1, len(part))):
        moved, part[last] = part[last], part[0]
        sink(moved, 0, last)
    return part


_ORDERS: dict[str, Callable[[np.ndarray], list[int]]] = {
    "label": lambda counts: list(range(len(counts))),
    "introsort": lambda counts: introsort(-counts),
    "stable": lambda counts: np.argsort(-counts, kind="stable").tolist(),
}


def class_order(counts: Sequence[int] | np.ndarray, kind: Any = "introsort") -> tuple[int, ...]:
    """Labels of the classes in the order in which a repository numbers them, ``(C,)``.

    Args:
        counts: training images per class, ``(C,)``, or a mapping by label.
        kind: a name in :data:`CLASS_ORDERS`, or anything that :func:`check_class_order` takes.

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
    counts = by_class(counts, range(len(counts)), "counts")
    if isinstance(kind, str):
        return tuple(_ORDERS[kind](np.asarray(counts, dtype=np.int64)))
    if len(kind) != len(counts):
        raise UserError(f"class_order has {len(kind)} labels for {len(counts)} classes: give each of them once")
    return tuple(kind)


def check_class_order(kind: Any) -> str | list[int]:
    """Return a name in :data:`CLASS_ORDERS`, or a permutation as a list.

    Args:
        kind: a name; labels in the order in which the model numbers them; or a JSON file with such a list.

    Raises:
        UserError: ``kind`` is none of these.

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
    """Describe a class order that :func:`check_class_order` returned.

    >>> describe_order("label"), describe_order([2, 1, 0])
    ('label order', 'as given: 2, 1, 0')
    """
    if isinstance(kind, str):
        return CLASS_ORDERS[kind]
    return f"as given: {', '.join(map(str, kind[:6]))}" + (", ..." if len(kind) > 6 else "")
