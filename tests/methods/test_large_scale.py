"""Schedules of the large data sets against a table that was read in the official repositories."""

import pytest

from sharpness.data import LongTail
from sharpness.methods import METHODS, build_recipe
from sharpness.methods.card import stage_card
from sharpness.methods.large_scale import PUBLISHED

#: Epochs, batch, learning rate and weight decay of every stage.
TABLE = {
    ("ce", "imagenet-lt"): [(90, 512, 0.2, 5e-4)],
    ("ce", "inat18"): [(90, 512, 0.2, 1e-4)],
    ("crt", "imagenet-lt"): [(90, 512, 0.2, 5e-4), (10, 512, 0.2, 5e-4)],
    ("crt", "inat18"): [(90, 512, 0.2, 1e-4), (30, 512, 0.2, 1e-4)],
    ("crt", "places-lt"): [None, (10, 256, 0.1, 5e-4)],
    ("lws", "imagenet-lt"): [(90, 512, 0.2, 5e-4), (5, 512, 0.2, 5e-4)],
    ("lws", "inat18"): [(90, 512, 0.2, 1e-4), (5, 512, 0.2, 1e-4)],
    ("lws", "places-lt"): [None, (5, 256, 0.1, 5e-4)],
    ("ldam-drw", "imagenet-lt"): [(90, 256, 0.2, 2e-4)],
    ("ldam-drw", "inat18"): [(90, 256, 0.1, 1e-4)],
    ("ldam-drw", "places-lt"): [(30, 256, 0.01, 1e-4)],
    ("balanced-softmax", "imagenet-lt"): [(90, 512, 0.2, 5e-4)],
    ("mislas", "imagenet-lt"): [(180, 256, 0.1, 5e-4), (10, 256, 0.1, 5e-4)],
    ("mislas", "inat18"): [(200, 256, 0.1, 1e-4), (10, 256, 0.1, 1e-4)],
    ("mislas", "places-lt"): [(90, 256, 0.1, 5e-4), (10, 256, 0.1, 5e-4)],
    ("gcl", "places-lt"): [(90, 512, 0.2, 5e-4), (30, 512, 0.002, 5e-4)],
}


def tail(dataset, counts=(500, 100, 5)):
    names = tuple(map(str, range(len(counts))))
    return LongTail(dataset, names, "listed", max(counts) / min(counts), "list:0", counts, "oltr")


@pytest.mark.parametrize(("method", "data"), TABLE, ids=" ".join)
def test_numbers_are_those_of_the_repositories(method, data):
    stages = build_recipe(method, tail(data)).stages
    for stage, expected in zip(stages, TABLE[method, data], strict=True):
        if expected is not None:
            assert (stage.epochs, stage.batch_size, stage.lr, stage.weight_decay) == expected


@pytest.mark.parametrize("data", ["imagenet-lt", "inat18", "places-lt"])
def test_batches_that_a_method_drops_are_dropped_here_too(data):
    """CC-SAM's released code drops incomplete ones in stage 1; classifier-balancing does, MiSLAS does not."""
    dropped = {
        ("cc-sam", True): [True, False], ("cc-sam", False): [False, False], ("mislas", False): [False, False],
        ("crt", False): [data != "places-lt", True],
    }  # fmt: skip
    for (method, released), expected in dropped.items():
        recipe = build_recipe(method, tail(data), **({"released_code": True} if released else {}))
        assert [stage.drop_last for stage in recipe.stages] == expected


@pytest.mark.parametrize(("method", "data"), PUBLISHED, ids=" ".join)
def test_every_row_makes_a_card(method, data):
    recipe = build_recipe(method, tail(data))
    cards = [stage_card(stage, "resized-crop") for stage in recipe.stages]
    assert all(str(stage.epochs) in str(card) for stage, card in zip(recipe.stages, cards, strict=True))
    assert not any("CIFAR" in note for note in recipe.notes)


@pytest.mark.parametrize(
    ("method", "data", "told"),
    [
        ("ce", "places-lt", "stage 1 for Places-LT is not published"),
        ("gcl", "imagenet-lt", "not published for imagenet-lt: the numbers for Places-LT were taken"),
        ("cc-sam", "inat18", "not published for this data: MiSLAS's were taken"),
        ("balanced-softmax", "inat18", "not published for iNaturalist"),
        ("focal", "inat18", "no numbers are published for inat18: those for CIFAR were taken"),
    ],
)
def test_the_card_says_what_is_not_published(method, data, told):
    assert any(told in note for note in build_recipe(method, tail(data)).notes)


def test_two_conventions_of_the_cosine():
    """The last epoch of classifier-balancing is at 0, the first of MiSLAS at the full rate."""
    kang, mislas = (build_recipe(m, tail("imagenet-lt")).stages[0] for m in ("crt", "mislas"))
    assert kang.schedule.factor(90, 90) == pytest.approx(0, abs=1e-15)
    assert kang.drop_last
    assert mislas.schedule.factor(1, 180) == 1
    assert mislas.schedule.factor(180, 180) > 0
    assert not mislas.drop_last


def test_numbers_of_losses_and_heads():
    ldam = build_recipe("ldam-drw", tail("places-lt"))
    assert (ldam.scale, ldam.stages[0].loss.scale, ldam.stages[0].loss.max_margin) == (50, 50, 0.2)
    assert [ldam.stages[0].schedule.factor(e, 30) for e in (1, 10, 11, 21)] == [1, 1, 0.1, 0.01]
    saddle = build_recipe("ldam-drw", tail("imagenet-lt")).stages[0].loss
    assert (saddle.max_margin, saddle.reweight_from * 90) == (0.3, pytest.approx(60))
    gcl = build_recipe("gcl", tail("places-lt"))
    assert gcl.scale == 30
    assert (gcl.stages[1].loss.scale, gcl.stages[1].enter[0].scale) == (15, 15)
    smoothing = [build_recipe("mislas", tail(d)).stages[1].loss for d in ("imagenet-lt", "inat18", "places-lt")]
    assert [(s.head, s.tail) for s in smoothing] == [(0.3, 0), (0.3, 0), (0.4, 0.1)]


def test_options_of_the_user_stay():
    assert build_recipe("mislas", tail("inat18"), mixup=0.7).stages[0].mixup == 0.7
    assert build_recipe("ldam-drw", tail("imagenet-lt"), max_margin=0.4).stages[0].loss.max_margin == 0.4
    assert build_recipe("ldam-drw", tail("places-lt"), scale=20.0).scale == 20
    for shifted in (False, True):
        mislas = build_recipe("mislas", tail("imagenet-lt"), shift_batchnorm=shifted)
        assert mislas.stages[1].frozen_batchnorm is not shifted


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ("crt", "BatchNorm is frozen with the backbone; in the released code it follows the batches"),
        ("gcl", "stage 2 starts from the last epoch"),
        ("cc-sam", "the paper's radius times 0.01, at most 0.05"),
        ("balanced-softmax", "without the learnt sampler"),
        ("mislas", "one fewer than in the released code"),
    ],
)
def test_deviations_that_do_not_hang_on_the_data_stay_on_the_card(method, told):
    for data in ("imagenet-lt", "cifar100-lt"):
        assert sum(told in note for note in build_recipe(method, tail(data)).notes) == 1


@pytest.mark.parametrize("method", METHODS.built_in())
def test_other_data_keep_their_numbers(method):
    here, elsewhere = tail("list"), tail("cifar10-lt")
    assert build_recipe(method, here).stages == build_recipe(method, elsewhere).stages
