"""Every method on a hard long tail, by its own recipe shortened: it learns all groups, and re-balancing shows."""

import math

import pytest

from sharpness import load_data, train
from sharpness.methods import LABELS, METHODS

pytestmark = pytest.mark.slow

#: Of the first stage, as ``sharpness demo``.
EPOCHS = 60
#: Methods that do nothing for rare classes: the baseline, and a loss that knows no class sizes.
PLAIN = ("ce", "focal")


@pytest.fixture(scope="module")
def data():
    """From 124 images of a digit to 1 of another; 50 test images of each."""
    return load_data("digits-lt", imbalance=100)


@pytest.fixture(scope="module")
def last(data, tmp_path_factory):
    """A function from a method to the last row of its history, trained once."""
    rows = {}

    def get(method):
        if method not in rows:
            rows[method] = train(method, data, tmp_path_factory.mktemp(method) / "run", epochs=EPOCHS).iloc[-1]
            groups = ("accuracy", "accuracy_many", "accuracy_medium", "accuracy_few")
            print(f"{LABELS[method]:20}", *(f"{100 * rows[method][group]:6.1f}" for group in groups))
        return rows[method]

    return get


def standard_error(data, last, method):
    """Of the difference of two few-shot accuracies, as if on other images: those on the same differ by less."""
    images = sum(int((data.test.labels == c).sum()) for c in data.groups["few"])
    return math.sqrt(sum(p * (1 - p) for p in (last("ce").accuracy_few, last(method).accuracy_few)) / images)


@pytest.mark.parametrize("group", ["accuracy", "accuracy_many", "accuracy_medium", "accuracy_few"])
@pytest.mark.parametrize("method", METHODS)
def test_every_group_is_recognised_five_times_as_often_as_by_chance(last, method, group):
    """Chance is 10 %; its standard error is 4.2 % on the 50 test images of one class, the smallest group."""
    assert last(method)[group] > 0.5


@pytest.mark.parametrize("method", [m for m in METHODS if m not in PLAIN])
def test_re_balancing_does_not_cost_rare_classes_anything(data, last, method):
    """Not below cross-entropy by more than two standard errors of a difference of two proportions."""
    assert last(method).accuracy_few > last("ce").accuracy_few - 2 * standard_error(data, last, method)


@pytest.mark.parametrize("method", ["balanced-softmax", "logit-adjustment"])
def test_offsets_by_class_size_help_rare_classes(data, last, method):
    """Their minimiser is that of the balanced error: above cross-entropy by more than two standard errors."""
    assert last(method).accuracy_few > last("ce").accuracy_few + 2 * standard_error(data, last, method)
