"""What a model card says of a stage: everything that has an effect, in words that a person reads."""

import dataclasses

import pytest

from sharpness.flattening import OPERATIONS, SAM, SWA, PoF, build_operation
from sharpness.methods import METHODS, build_recipe, flattened
from sharpness.methods.card import formula, stage_card
from sharpness.methods.changes import NewHead
from sharpness.methods.focal import Focal
from sharpness.methods.recipe import Deferred, Stage
from sharpness.methods.schedules import Constant, Cosine
from sharpness.steps import Loss

STAGE = Stage("one", 7, Focal(2.0), Constant(), trainable="head")
#: Another value of every field.
OTHER = {
    "name": "two",
    "epochs": 8,
    "loss": Focal(3.0),
    "schedule": Cosine(),
    "sampler": "class_balanced:4",
    "mixup": 0.5,
    "rule": SAM(0.3),
    "lr": 0.3,
    "momentum": 0.8,
    "nesterov": True,
    "weight_decay": 1e-3,
    "batch_size": 5,
    "trainable": "all",
    "frozen_batchnorm": False,
    "lr_factors": (("head.", 0.5),),
    "enter": (NewHead(),),
    "drop_last": True,
    "averaging": SWA(0.3),
    "helper": "previous",
    "deferred": Deferred(0.5, "inverse_frequency"),
}


def test_no_field_is_forgotten():
    assert set(OTHER) == {f.name for f in dataclasses.fields(Stage)}
    cards = [stage_card(STAGE), *(stage_card(dataclasses.replace(STAGE, **{n: v})) for n, v in OTHER.items())]
    assert len({tuple(card.items()) for card in cards}) == 1 + len(OTHER)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_tells_loss_and_rule_with_all_numbers(cifar, method):
    for stage in build_recipe(method, cifar()).stages:
        card = stage_card(stage)
        assert card["stage"] == stage.name
        assert card["loss"].startswith(f"{stage.loss!r}: ")
        assert len(card["loss"]) > len(f"{stage.loss!r}: ") + 10
        assert ("step" in card) == (stage.epochs > 0)
        for words in card.values():
            assert "\n" not in words and "`" not in words and ":math" not in words and "object at" not in words


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_told_with_its_numbers_and_names_paper_and_deviations(cifar, name):
    operation = build_operation(name)
    assert operation.paper.count(",") >= 2
    assert all(isinstance(text, str) and "\n" not in text for text in operation.deviations)
    recipe = flattened(build_recipe("ce", cifar()), (name,))
    assert set(operation.deviations) <= set(recipe.notes)
    told = str([stage_card(s) for s in recipe.stages]) + str(recipe.normalization)
    assert repr(operation) in told


def test_a_deferred_change_says_when_and_what(cifar):
    card = stage_card(build_recipe("m2m", cifar()).stages[1])
    assert card["later"].startswith("after 80% of the epochs sampler inverse_frequency, MajorToMinor(beta=0.999")
    assert "frozen" in card["consults"]


def test_a_formula_is_the_first_sentence_without_markup():
    class Half(Loss):
        r"""The half :math:`\frac{1}{2}` of ``it``,
        on two lines.

        More.
        """

        def __repr__(self):
            return "Half()"

    assert formula(Half()) == "Half(): The half frac{1}{2} of it, on two lines."
    assert formula(PoF()).startswith("PoF(gamma=2.0, share=0.25, lr=0.00016): ")


@pytest.mark.parametrize(
    ("epochs", "batch_size", "expected"),
    [
        (None, None, []),
        (200, 128, []),
        (40, None, ["40 epochs instead of 200, later stages and all schedules in proportion"]),
        (None, 64, ["batches of 64 instead of 128"]),
    ],
)
def test_what_a_run_shortens_is_noted(cifar, epochs, batch_size, expected):
    recipe = build_recipe("ldam-drw", cifar()).with_epochs(epochs).with_batch_size(batch_size, 12406)
    assert list(recipe.notes) == expected
