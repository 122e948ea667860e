"""Group conventions against the papers' tables."""

import pytest

from sharpness.data.groups import GROUP_CONVENTIONS, class_groups, named_groups, training_counts
from sharpness.data.profiles import profile_counts
from sharpness.errors import UserError

BORDERS = (101, 100, 99, 21, 20, 19)


@pytest.mark.parametrize(
    ("convention", "many", "medium", "few"),
    [
        ("oltr", (0, 1), (2, 3), (4, 5)),
        ("classifier-balancing", (0,), (1, 2, 3, 4), (5,)),
        ("100,20", (0,), (1, 2, 3, 4), (5,)),
        ("99, 20.5", (0, 1), (2, 3), (4, 5)),
        ("20,20", (0, 1, 2, 3), (4,), (5,)),
    ],
)
def test_thresholds_fall_on_the_stated_side(convention, many, medium, few):
    assert class_groups(BORDERS, convention) == {"many": many, "medium": medium, "few": few}


@pytest.mark.parametrize(
    ("num_classes", "sizes"),
    [
        (10, (3, 4, 3)),
        (100, (36, 35, 29)),
        (365, (131, 157, 77)),
        (1000, (390, 445, 165)),
        (8142, (842, 3701, 3599)),
    ],
)
def test_mislas_cuts_have_the_published_sizes(num_classes, sizes):
    groups = class_groups(range(num_classes, 0, -1), "mislas")
    assert tuple(len(groups[g]) for g in ("many", "medium", "few")) == sizes
    assert groups["many"] + groups["medium"] + groups["few"] == tuple(range(num_classes))


def test_mislas_sorts_by_count_and_keeps_ties_in_label_order():
    groups = class_groups((1, 9, 5, 5, 5, 5, 9, 2, 3, 9), "mislas")
    assert groups == {"many": (1, 6, 9), "medium": (2, 3, 4, 5), "few": (0, 7, 8)}


def test_mislas_without_cuts_is_refused():
    with pytest.raises(UserError, match="no cuts for 7 classes"):
        class_groups((1,) * 7, "mislas")


@pytest.mark.parametrize(
    ("num_classes", "imbalance", "high", "low"),
    [(10, 100, 1000, 200), (10, 10, 2319, 835), (100, 100, 100, 20), (100, 10, 265, 99)],
)
def test_focal_sam_thresholds_depend_on_the_data(num_classes, imbalance, high, low):
    counts = profile_counts("exp", imbalance, num_classes, 50000 // num_classes)
    groups = class_groups(counts, "focal-sam", float(imbalance))
    assert groups == class_groups(counts, f"{high},{low}")
    assert all(groups.values())


@pytest.mark.parametrize(("num_classes", "imbalance"), [(10, 50), (20, 100), (10, None)])
def test_focal_sam_elsewhere_is_refused(num_classes, imbalance):
    with pytest.raises(UserError, match="focal-sam"):
        class_groups((5,) * num_classes, "focal-sam", imbalance)


@pytest.mark.parametrize("convention", [*GROUP_CONVENTIONS, "300,30"])
def test_groups_partition_the_classes(convention):
    counts = profile_counts("exp", 100, 100, 500)
    groups = class_groups(counts, convention, 100)
    assert list(groups) == ["many", "medium", "few"]
    assert sorted(sum(groups.values(), ())) == list(range(100))


def test_a_group_may_be_empty():
    assert class_groups((500, 400), "oltr") == {"many": (0, 1), "medium": (), "few": ()}


@pytest.mark.parametrize("convention", ["kang", "100", "100,20,5", "many,few", "nan,20", "inf,2", ""])
def test_an_unknown_convention_lists_the_choices(convention):
    with pytest.raises(UserError, match="oltr, classifier-balancing, mislas, focal-sam"):
        class_groups((1, 2), convention)


def test_thresholds_in_the_wrong_order_are_refused():
    with pytest.raises(UserError, match="higher one first"):
        class_groups((1, 2), "20,100")


def test_a_class_is_in_a_group_once():
    names = ("cat", "dog", "ship")
    assert named_groups({"pets": ["cat", 1, 0]}, None, names) == {"pets": (0, 1)}
    for odd in (0.5, 3, -1, float("nan"), "cow"):
        with pytest.raises(UserError, match="group 'pets' has class"):
            named_groups({"pets": [odd]}, None, names)


def test_integer_keys_that_are_labels_and_names_of_other_classes_are_refused():
    with pytest.raises(UserError, match="labels and names of other classes: give a list"):
        training_counts({0: 5, 1: 3}, 2, ("1", "0"))
    assert training_counts({"0": 5, "1": 3}, 2, ("1", "0")).tolist() == [3, 5]
    assert training_counts({1: 3, 0: 5}, 2, ("0", "1")).tolist() == [5, 3]
    assert training_counts({1: 3, 0: 5}, 2, ("a", "b")).tolist() == [5, 3]
