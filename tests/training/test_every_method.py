"""Every method and every flattening operation on a hard long tail, by recipes shortened: all groups are learnt, and
re-balancing shows.
"""

import math

import pytest

from sharpness import load_data, train
from sharpness.flattening import OPERATIONS, operation_label
from sharpness.methods import METHODS

pytestmark = pytest.mark.slow

#: Of the first stage, as ``sharpness demo``.
EPOCHS = 60
#: Methods that do nothing for rare classes: the baseline, and a loss that knows no class sizes.
PLAIN = ("ce", "focal")
#: What operations are added to: a method that re-weighs rare classes, where the published studies of SAM on long tails
#: find saddle points to escape from.
BASE = "ldam-drw"
#: Operations whose papers say that they serve rare classes; SAM as in the study of saddle points of tail losses.
FOR_RARE = ("sam", "imbsam", "focal-sam", "rwsam")
#: Options that make another method of one, and an operation on the two methods that train with parts of their own.
VARIANTS = [
    ("ce-drw", (), {"deferred": False}),
    ("balanced-softmax", (), {"decoupled": True}),
    ("logit-adjustment", (), {"posthoc": True}),
    ("crt", (), {"shift_batchnorm": True}),
    ("lws", (), {"shift_batchnorm": True}),
    ("cc-sam", (), {"scope": "last_block"}),
    ("cc-sam", (), {"scope": "all", "rho_scale": 0.003}),
    ("cc-sam", (), {"released_code": True}),
    ("m2m", ("mp",), {}),
    ("rsg", ("mp",), {}),
    ("m2m", ("swa",), {}),
]
GROUPS = ("accuracy", "accuracy_many", "accuracy_medium", "accuracy_few")


@pytest.fixture(scope="module")
def data():
    """From 124 images of a digit to 1 of another; 50 test images of each."""
    return load_data("digits-lt", imbalance=100)


@pytest.fixture(scope="module")
def last(data, tmp_path_factory):
    """A function from a method and an operation to the last row of the history, trained once."""
    rows = {}

    def get(method, operation=None):
        if (method, operation) not in rows:
            flatten = (operation,) if operation else ()
            out = tmp_path_factory.mktemp(method) / "run"
            rows[method, operation] = train(method, data, out, epochs=EPOCHS, flatten=flatten).iloc[-1]
            label = "+".join([METHODS.label(method), *map(operation_label, flatten)])
            print(f"{label:20}", *(f"{100 * rows[method, operation][group]:6.1f}" for group in GROUPS))
        return rows[method, operation]

    return get


def standard_error(data, one, other):
    """Of the difference of two few-shot accuracies, as if on other images: those on the same differ by less."""
    images = sum(int((data.test.labels == c).sum()) for c in data.groups["few"])
    return math.sqrt(sum(p * (1 - p) for p in (one.accuracy_few, other.accuracy_few)) / images)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("method", METHODS)
def test_every_group_is_recognised_five_times_as_often_as_by_chance(last, method, group):
    """Chance is 10 %; its standard error is 4.2 % on the 50 test images of one class, the smallest group."""
    assert last(method)[group] > 0.5


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_with_every_operation_as_well(last, operation, group):
    """Rare classes are six here, of 300 test images: the standard error of chance is 1.7 %."""
    assert last(BASE, operation)[group] > 0.5


@pytest.mark.parametrize(("method", "flatten", "options"), VARIANTS)
def test_in_its_variants_as_well(data, tmp_path, method, flatten, options):
    row = train(method, data, tmp_path / "run", epochs=EPOCHS, flatten=flatten, **options).iloc[-1]
    assert all(row[group] > 0.5 for group in GROUPS)


@pytest.mark.parametrize("method", [m for m in METHODS if m not in PLAIN])
def test_re_balancing_does_not_cost_rare_classes_anything(data, last, method):
    """Not below cross-entropy by more than two standard errors of a difference of two proportions."""
    plain, found = last("ce"), last(method)
    assert found.accuracy_few > plain.accuracy_few - 2 * standard_error(data, plain, found)


@pytest.mark.parametrize("method", ["balanced-softmax", "logit-adjustment"])
def test_offsets_by_class_size_help_rare_classes(data, last, method):
    """Their minimiser is that of the balanced error: above cross-entropy by more than two standard errors."""
    plain, found = last("ce"), last(method)
    assert found.accuracy_few > plain.accuracy_few + 2 * standard_error(data, plain, found)


@pytest.mark.parametrize("operation", FOR_RARE)
def test_what_is_made_for_rare_classes_does_not_cost_them_anything(data, last, operation):
    plain, found = last(BASE), last(BASE, operation)
    assert found.accuracy_few > plain.accuracy_few - 2 * standard_error(data, plain, found)
