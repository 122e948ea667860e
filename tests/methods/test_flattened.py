"""What flattening operations make of a recipe, and which are refused."""

from dataclasses import replace

import pytest

from sharpness.errors import UserError
from sharpness.flattening import FSDGPM, SAM, SWA, PoF, SpectralNormalization
from sharpness.methods import METHODS, build_recipe, flattened
from sharpness.methods.schedules import Averaged, Constant

BESIDE = ("swa", "sn", "pof")


def test_nothing_asked_is_nothing_changed(cifar):
    recipe = build_recipe("ldam-drw", cifar())
    assert flattened(recipe, ()) is recipe


@pytest.mark.parametrize(("name", "rule"), [("sam:0.8", SAM(0.8)), ("fs-dgpm", FSDGPM())])
def test_a_rule_takes_the_place_of_plain_steps_only(cifar, name, rule):
    plain = build_recipe("ldam-drw", cifar())
    assert flattened(plain, (name,)).stages[0] == replace(plain.stages[0], rule=rule)
    both = flattened(build_recipe("mislas", cifar()), (name,))
    assert [s.rule for s in both.stages] == [rule, rule]


@pytest.mark.parametrize("method", METHODS)
def test_averaging_is_of_the_stage_that_trains_everything(cifar, method):
    plain = build_recipe(method, cifar())
    recipe = flattened(plain, ("swa",))
    index = 1 if method == "m2m" else 0
    schedule = Averaged(plain.stages[index].schedule, 0.8, 0.5)
    averaged = replace(plain.stages[index], averaging=SWA(), schedule=schedule)
    assert recipe.stages == (*plain.stages[:index], averaged, *plain.stages[index + 1 :])
    assert any("the test columns of its last epoch are those of the average" in note for note in recipe.notes)


def test_averaging_takes_the_last_of_several_whole_stages(cifar):
    one = build_recipe("ce", cifar())
    two = replace(one, stages=(one.stages[0], replace(one.stages[0], name="again", lr=0.5)))
    recipe = flattened(two, ("swa",))
    assert recipe.stages[0] == one.stages[0]
    assert recipe.stages[1].schedule.final == pytest.approx(0.1)


@pytest.mark.parametrize("method", METHODS)
def test_normalisation_is_of_the_whole_recipe(cifar, method):
    plain = build_recipe(method, cifar())
    recipe = flattened(plain, ("sn",))
    assert recipe.normalization == SpectralNormalization()
    assert recipe.stages == plain.stages
    assert ("and the head" in recipe.notes[-1]) == (recipe.head == "linear")


@pytest.mark.parametrize("method", METHODS)
def test_post_training_is_a_stage_of_the_backbone_at_the_end(cifar, method):
    plain = build_recipe(method, cifar())
    recipe = flattened(plain, ("pof:1.5",))
    added, last = recipe.stages[-1], plain.stages[-1]
    assert recipe.stages[:-1] == plain.stages
    epochs = round(0.25 * plain.stages[0].epochs)
    assert (added.epochs, added.rule, added.trainable) == (epochs, PoF(1.5), "backbone")
    assert (added.lr, added.schedule) == (1.6e-4, Constant())
    assert added.loss == (last.loss.base if method == "rsg" else last.loss)  # what is generated needs the generator
    assert added.sampler == ("inverse_frequency" if method == "m2m" else last.sampler)
    assert (added.mixup, added.batch_size) == (last.mixup, last.batch_size)
    assert not (added.enter or added.helper or added.deferred)
    assert any("as its paper describes it" in note for note in recipe.notes)


@pytest.mark.parametrize(("epochs", "expected"), [(200, 50), (40, 10), (1, 1)])
def test_post_training_is_shortened_with_the_rest(cifar, epochs, expected):
    recipe = flattened(build_recipe("mislas", cifar()), ("pof",)).with_epochs(epochs)
    assert recipe.stages[-1].epochs == expected


@pytest.mark.parametrize("method", METHODS)
def test_operations_combine_in_any_order(cifar, method):
    plain = build_recipe(method, cifar())
    one, other = flattened(plain, BESIDE), flattened(plain, BESIDE[::-1])
    assert one.stages == other.stages
    assert one.normalization == other.normalization
    assert set(one.notes) == set(other.notes)
    assert len(one.stages) == len(plain.stages) + 1
    assert one.stages[-1].averaging is None


@pytest.mark.parametrize("rule", ["sam", "fs-dgpm"])
def test_a_rule_goes_with_all_others(cifar, rule):
    recipe = flattened(build_recipe("gcl", cifar()), (rule, *BESIDE))
    first, second, third = recipe.stages
    assert type(first.rule) is type(second.rule) is not type(third.rule)
    assert first.averaging == SWA()
    assert isinstance(third.rule, PoF)


@pytest.mark.parametrize(
    ("method", "names", "message"),
    [
        ("ce", ("sam", "fs-dgpm"), "sam and fs-dgpm would each decide the gradient"),
        ("ce", ("swa", "sam", "swa:0.5"), "swa is given twice"),
        ("ce", ("sam", "sam:1"), "sam is given twice"),
        ("ce", ("swan",), "unknown flattening operation 'swan'"),
        ("ce", ("swa:1",), "start=1.0"),
        ("ce", ("sn:2",), "is no parameter of sn, it has none"),
        ("cc-sam", ("swa", "sam"), "cc-sam perturbs its weights itself: 'sam' cannot"),
        ("cc-sam", ("fs-dgpm",), "cc-sam perturbs its weights itself: 'fs-dgpm' cannot"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(cifar, method, names, message):
    with pytest.raises(UserError, match=message) as caught:
        flattened(build_recipe(method, cifar()), names)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["swa", "pof"])
def test_a_method_that_trains_no_backbone_has_nothing_to_average_or_train_on(cifar, name):
    recipe = build_recipe("ce", cifar())
    recipe = replace(recipe, stages=(replace(recipe.stages[0], trainable="head"),))
    with pytest.raises(UserError, match=f"no stage of ce trains its backbone: '{name}'") as caught:
        flattened(recipe, (name,))
    assert "\n" not in str(caught.value)
