"""Which images are kept, and the description of a long tail."""

import json
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch

from sharpness.data.longtail import LongTail, check_recipe, select_indices
from sharpness.errors import UserError

TAIL = LongTail("toy", ("a", "b", "c", "d"), "exp", 10.0, "ldam_seed0", (200, 50, 20, 20), "oltr")


@pytest.fixture
def labels():
    return np.random.RandomState(3).randint(0, 6, 600)


def ldam_restated(labels, counts, seed):
    """LDAM-DRW's own words: the global generator, one shuffle per class."""
    before = np.random.get_state()
    np.random.seed(seed)
    kept = []
    for label, count in enumerate(counts):
        index = np.where(np.array(labels) == label)[0]
        np.random.shuffle(index)
        kept.extend(index[:count].tolist())
    np.random.set_state(before)
    return kept


@pytest.mark.parametrize(("subset", "seed"), [("ldam_seed0", 0), ("seed:0", 0), ("seed:42", 42)])
@pytest.mark.parametrize("kind", [np.asarray, torch.tensor, list])
def test_seeded_subsets_are_those_of_the_global_generator(labels, subset, seed, kind):
    counts = (60, 40, 20, 10, 5, 1)
    indices = select_indices(kind(labels), counts, subset)
    assert indices.dtype == np.int64
    assert indices.tolist() == ldam_restated(labels, counts, seed)


def test_selection_leaves_the_global_generator_alone(labels):
    before = np.random.get_state()[1].copy()
    select_indices(labels, (5,) * 6, "ldam_seed0")
    assert (np.random.get_state()[1] == before).all()


def test_first_n_takes_the_first_images_class_after_class(labels):
    indices = select_indices(labels, (3, 2, 1, 1, 1, 1), "first_n")
    expected = [i for c, n in enumerate((3, 2, 1, 1, 1, 1)) for i in np.flatnonzero(labels == c)[:n]]
    assert indices.tolist() == expected


def test_a_class_with_too_few_images_is_named(labels):
    with pytest.raises(UserError, match="class 1 is asked for 1000"):
        select_indices(labels, (1, 1000), "first_n")


@pytest.mark.parametrize("subset", ["random", "seed:", "seed:-1", "seed:x", "seed:4294967296", "seed"])
def test_an_unknown_subset_lists_the_choices(labels, subset):
    with pytest.raises(UserError, match="ldam_seed0, seed:<int>, first_n"):
        select_indices(labels, (1,), subset)


def test_a_long_tail_counts_itself():
    assert (TAIL.num_classes, TAIL.total, TAIL.tail_class) == (4, 290, 3)
    assert replace(TAIL, train_counts=(20, 5, 30, 6)).tail_class == 1
    assert TAIL.groups == {"many": (0,), "medium": (1,), "few": (2, 3)}
    assert [TAIL.group_of(c) for c in range(4)] == ["many", "medium", "few", "few"]
    with pytest.raises(UserError, match="class 4"):
        TAIL.group_of(4)


def test_a_long_tail_survives_json():
    values = json.loads(json.dumps(TAIL.to_dict()))
    assert LongTail.from_dict(values) == TAIL
    assert hash(LongTail.from_dict(values)) == hash(TAIL)


def test_a_long_tail_is_frozen_and_short():
    with pytest.raises(FrozenInstanceError):
        TAIL.imbalance = 3
    assert "\n" not in repr(TAIL)
    assert "N=290" in repr(TAIL)


@pytest.mark.parametrize("change", [{"extra": 1}, {"profile": None}])
def test_a_description_with_wrong_keys_is_refused(change):
    values = TAIL.to_dict()
    for key, value in change.items():
        if value is None:
            del values[key]
        else:
            values[key] = value
    with pytest.raises(UserError, match=next(iter(change))):
        LongTail.from_dict(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"profile": "pareto"}, "profile"),
        ({"subset": "random"}, "subset"),
        ({"group_convention": "kang"}, "convention"),
        ({"group_convention": "mislas"}, "4 classes"),
        ({"imbalance": 0.1}, "imbalance"),
        ({"train_counts": (200, 50, 20, 0)}, "class 'd' has 0"),
        ({"train_counts": (200, 50)}, "4 class names for 2"),
    ],
)
def test_an_impossible_description_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        replace(TAIL, **change)


def test_a_recipe_is_checked_before_any_image_is_read():
    check_recipe("exp", 100, "seed:7", "100,20")
    for wrong in [("x", 1, "first_n", "oltr"), ("exp", 0, "first_n", "oltr"), ("exp", 1, "x", "oltr")]:
        with pytest.raises(UserError):
            check_recipe(*wrong)
