"""Orders of classes, against NumPy's own introsort, which extended floating point still goes through."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from sharpness.data import class_groups, class_order
from sharpness.data.class_orders import introsort
from sharpness.errors import UserError

LISTS = Path(os.environ.get("SHARPNESS_LISTS", ""))


def numpy_introsort(values):
    """NumPy sorts integers by other algorithms since 1.25, each processor by its own; ``longdouble`` as before."""
    return np.argsort(np.asarray(values).astype(np.longdouble)).tolist()


@pytest.mark.parametrize("n", [0, 1, 2, 15, 16, 17, 18, 33, 100, 365, 1000, 8142])
@pytest.mark.parametrize("different", [1, 3, 50, 10**6])
def test_ties_come_as_numpy_left_them(n, different):
    values = np.random.default_rng(n + different).integers(0, different, n)
    for v in (values, np.sort(values), -np.sort(values)):
        assert introsort(v) == numpy_introsort(v)


def adversary(n):
    """Values on which a quicksort needs n**2 steps (McIlroy 1999): they are settled while it compares them."""
    settled, candidate = [n] * n, [None]
    count = iter(range(n))

    class Item:
        def __init__(self, i):
            self.i = i

        def __lt__(self, other):
            a, b = self.i, other.i
            if settled[a] == settled[b] == n:
                settled[a if a == candidate[0] else b] = next(count)
            if n in (settled[a], settled[b]):
                candidate[0] = a if settled[a] == n else b
            return settled[a] < settled[b]

    items = np.empty(n, object)
    items[:] = [Item(i) for i in range(n)]
    introsort(items)
    return np.array(settled)


@pytest.mark.parametrize("n", [50, 300, 2000])
def test_the_heapsort_of_hopeless_partitions_is_numpys(n, monkeypatch):
    values, heaps = adversary(n), []
    from sharpness.data import class_orders

    heapsort = class_orders._heapsort
    monkeypatch.setattr(class_orders, "_heapsort", lambda v, part: heaps.append(len(part)) or heapsort(v, part))
    assert introsort(values) == numpy_introsort(values)
    assert heaps


@pytest.mark.skipif(
    not list(LISTS.glob("*_LT_train_counts.json")), reason="needs the counts of the large sets in SHARPNESS_LISTS"
)
@pytest.mark.parametrize(
    ("name", "first", "digest"),
    [
        ("ImageNet_LT", (86, 674, 566, 333, 417, 97, 755, 775), "bfa0ad1798"),
        ("Places_LT", (7, 9, 12, 19, 24, 42, 45, 48), "9f3004b364"),
    ],
)
def test_the_large_sets_are_ordered_as_released_weights_have_them(name, first, digest):
    counts = json.loads((LISTS / f"{name}_train_counts.json").read_text())
    order = class_order(counts, "introsort")
    assert order[:8] == first
    assert hashlib.sha1(np.array(order, "<i8").tobytes()).hexdigest().startswith(digest)


def test_the_other_orders():
    counts = (5, 90, 5, 80, 90)
    assert class_order(counts, "label") == (0, 1, 2, 3, 4)
    assert class_order(counts, "stable") == (1, 4, 3, 0, 2)
    assert class_order(counts, (4, 3, 2, 1, 0)) == class_order(counts, np.arange(4, -1, -1)) == (4, 3, 2, 1, 0)


def test_a_list_in_a_file(tmp_path):
    (tmp_path / "order.json").write_text("[2, 0, 1]")
    assert class_order((1, 2, 3), tmp_path / "order.json") == class_order((1, 2, 3), str(tmp_path / "order.json"))
    assert class_order((1, 2, 3), tmp_path / "order.json") == (2, 0, 1)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("count", "unknown class order 'count': choose one of label, introsort, stable, or a .json"),
        ("nowhere.json", "cannot read the class order from nowhere.json: it cannot be opened .No such file"),
        ([0, 0, 1], "each label from 0 on once"),
        ([0, 1.0, 2], "each label from 0 on once"),
        (7, "each label from 0 on once"),
        ([1, 0], "2 labels for 3 classes"),
    ],
)
def test_no_order(kind, told):
    with pytest.raises(UserError, match=told):
        class_order((3, 2, 1), kind)


def test_mislas_parts_ties_of_a_large_set_as_its_code_does():
    """Its code cuts by rank in its own order; classes that are numbered by rank already stay so."""
    counts = np.random.default_rng(0).integers(5, 60, 365)
    order = numpy_introsort(-counts)
    groups = class_groups(tuple(counts.tolist()), "mislas")
    assert groups["many"] == tuple(sorted(order[:131])) and groups["few"] == tuple(sorted(order[288:]))
    ranked = class_groups(tuple(counts[order].tolist()), "mislas")
    assert ranked["many"] == tuple(range(131)) and ranked["few"] == tuple(range(288, 365))
