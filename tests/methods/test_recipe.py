"""Recipes are data."""

import inspect
from dataclasses import FrozenInstanceError, asdict, replace

import pytest

from sharpness import methods
from sharpness.errors import UserError
from sharpness.flattening import OPERATIONS, SAM
from sharpness.methods import METHODS, build_recipe
from sharpness.methods.m2m_translation import Translation

PUBLISHED = {
    "ce": [(200, 128)],
    "ldam-drw": [(200, 128)],
    "mislas": [(200, 128), (10, 128)],
    "gcl": [(200, 64), (30, 64)],
    "cc-sam": [(200, 64), (30, 64)],
    "ce-drw": [(200, 128)],
    "focal": [(200, 128)],
    "balanced-softmax": [(520, 512)],
    "logit-adjustment": [(1241, 128)],
    "crt": [(200, 128), (22, 128)],
    "lws": [(200, 128), (11, 128)],
    "tau-norm": [(200, 128), (0, 128)],
    "m2m": [(200, 128), (200, 128)],
    "rsg": [(200, 128)],
}
#: Where it is not 2e-4.
WEIGHT_DECAY = {"balanced-softmax": 5e-4}


@pytest.mark.parametrize("method", METHODS)
def test_stages_have_the_published_epochs_and_batch_sizes(cifar, method):
    recipe = build_recipe(method, cifar())
    assert [(s.epochs, s.batch_size) for s in recipe.stages] == PUBLISHED[method]
    assert [s.momentum for s in recipe.stages] == [0.9] * len(recipe.stages)
    assert [s.weight_decay for s in recipe.stages] == [WEIGHT_DECAY.get(method, 2e-4)] * len(recipe.stages)
    assert recipe.stages[0].lr == 0.1


@pytest.mark.parametrize("method", METHODS)
def test_a_recipe_is_plain_data(cifar, method):
    recipe = build_recipe(method, cifar())
    assert recipe == build_recipe(method, cifar())
    changed = replace(recipe.stages[0], lr=0.3, rule=SAM(0.1))
    other = replace(recipe, stages=(changed, *recipe.stages[1:]))
    assert (other.stages[0].lr, other.stages[0].rule) == (0.3, SAM(0.1))
    assert recipe.stages[0].lr == 0.1
    assert asdict(other)["stages"][0]["lr"] == 0.3
    with pytest.raises(FrozenInstanceError):
        recipe.stages[0].lr = 1


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_label_and_its_paper(cifar, method):
    recipe = build_recipe(method, cifar())
    assert recipe.method == method
    assert METHODS.label(method).lower().replace(" ", "-").replace("τ", "tau") == method
    assert recipe.paper


@pytest.mark.parametrize(
    ("method", "epochs", "expected"),
    [
        ("ce", 50, [50]),
        ("mislas", 200, [200, 10]),
        ("mislas", 100, [100, 5]),
        ("mislas", 1, [1, 1]),
        ("gcl", 400, [400, 60]),
        ("gcl", 20, [20, 3]),
        ("cc-sam", 40, [40, 6]),
        ("cc-sam", None, [200, 30]),
        ("crt", 60, [60, 7]),
        ("lws", 1, [1, 1]),
        ("tau-norm", 60, [60, 0]),
        ("tau-norm", None, [200, 0]),
        ("m2m", 40, [40, 40]),
    ],
)
def test_later_stages_shorten_in_proportion(cifar, method, epochs, expected):
    recipe = build_recipe(method, cifar())
    assert [s.epochs for s in recipe.with_epochs(epochs).stages] == expected
    rest = [replace(s, epochs=0) for s in recipe.with_epochs(epochs).stages]
    assert rest == [replace(s, epochs=0) for s in recipe.stages]


@pytest.mark.parametrize("epochs", [0, -3, 2.5, float("nan")])
def test_no_epochs_are_refused(cifar, epochs):
    with pytest.raises(UserError, match=f"epochs={epochs}"):
        build_recipe("ce", cifar()).with_epochs(epochs)


@pytest.mark.parametrize(
    ("method", "images", "expected"),
    [
        ("ce", 12406, [128]),
        ("ce", 1280, [128]),
        ("ce", 1279, [64]),
        ("ce", 640, [64]),
        ("ce", 380, [32]),
        ("ce", 50, [16]),
        ("gcl", 1279, [64, 64]),
        ("gcl", 639, [32, 32]),
    ],
)
def test_batches_halve_until_an_epoch_has_ten_steps(cifar, method, images, expected):
    recipe = build_recipe(method, cifar()).with_batch_size(None, images)
    assert [s.batch_size for s in recipe.stages] == expected


def test_a_batch_size_that_is_given_stands(cifar):
    recipe = build_recipe("gcl", cifar()).with_batch_size(500, 380)
    assert [s.batch_size for s in recipe.stages] == [500, 500]


def numbers_of(function):
    """Names of the parameters that take a number."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if "int" in str(p.annotation) or "float" in str(p.annotation)]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_method_and_no_operation_takes_a_number_that_is_none(cifar, value):
    """A comparison such as ``share < 0`` lets NaN pass, which ends in a training that diverges or does nothing."""
    options = [(name, option) for name in METHODS for option in numbers_of(METHODS[name])]
    assert ("m2m", "seed_weight") in options and ("ldam-drw", "scale") in options
    for method, option in options:
        with pytest.raises(UserError, match=f"{option}={value}"):
            build_recipe(method, cifar(), **{option: value})
    for name in OPERATIONS:
        for option in numbers_of(OPERATIONS[name]):
            with pytest.raises(UserError, match=f"{option}={value}"):
                OPERATIONS[name](**{option: value})
    for option in ("seed_weight", "step_length", "noise", "steps"):
        with pytest.raises(UserError, match=f"{option}={value}"):
            Translation(**{option: value})


def test_batches_of_one_are_refused(cifar):
    with pytest.raises(UserError, match="batch_size=1: give an integer, at least 2, which BatchNorm needs"):
        build_recipe("ce", cifar()).with_batch_size(1, 380)


def test_dropping_the_only_batch_is_refused(cifar):
    recipe = build_recipe("cc-sam", cifar(), released_code=True)
    assert recipe.with_batch_size(380, 380).stages[0].batch_size == 380
    with pytest.raises(UserError, match="380 images fill no batch of 381"):
        recipe.with_batch_size(381, 380)


def test_an_unknown_method_lists_the_known_ones(cifar):
    with pytest.raises(UserError, match="ce, ldam-drw, mislas, gcl, cc-sam"):
        build_recipe("nonesuch", cifar())


@pytest.mark.parametrize(
    ("method", "has"),
    [
        ("ce", "it has none"),
        ("ldam-drw", "it has max_margin, scale"),
        ("mislas", "it has mixup, shift_batchnorm"),
        ("gcl", "it has sampler, mixup, kappa"),
        ("cc-sam", "it has scope, rho_scale"),
    ],
)
def test_an_unknown_option_lists_the_known_ones(cifar, method, has):
    with pytest.raises(UserError, match=f"unknown option 'gamma' of {method}: {has}"):
        build_recipe(method, cifar(), gamma=1)


def test_labels_are_found_by_their_old_name():
    with pytest.warns(FutureWarning, match=r"METHODS\.label\(name\)"):
        assert methods.LABELS["ce"] == "CE"
