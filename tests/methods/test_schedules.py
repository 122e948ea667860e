"""Learning rates against the rules of the papers' code, epoch by epoch."""

import math

import pytest

from sharpness.methods import build_recipe
from sharpness.methods.schedules import Averaged, Constant, Cosine, MultiStep, WarmupCosine


def ldam_rule(epoch, lr=0.1):
    """``adjust_learning_rate`` of the LDAM code; epoch counts from 1."""
    if epoch <= 5:
        return lr * epoch / 5
    if epoch > 180:
        return lr * 0.0001
    if epoch > 160:
        return lr * 0.01
    return lr


def tenths_rule(epoch, lr=0.1):
    """The same of MiSLAS and GCL, whose drops are tenths."""
    if epoch <= 5:
        return lr * epoch / 5
    if epoch > 180:
        return lr * 0.01
    if epoch > 160:
        return lr * 0.1
    return lr


def rates(stage):
    return [stage.lr * stage.schedule.factor(e, stage.epochs) for e in range(1, stage.epochs + 1)]


@pytest.mark.parametrize("method", ["ce", "ldam-drw"])
def test_cross_entropy_and_ldam_follow_the_ldam_code(cifar, method):
    (stage,) = build_recipe(method, cifar()).stages
    assert rates(stage) == pytest.approx([ldam_rule(e) for e in range(1, 201)], rel=1e-14)


@pytest.mark.parametrize("method", ["mislas", "gcl", "cc-sam"])
def test_first_stages_of_the_others_drop_by_tenths(cifar, method):
    stage = build_recipe(method, cifar()).stages[0]
    assert rates(stage) == pytest.approx([tenths_rule(e) for e in range(1, 201)], rel=1e-14)


def test_the_second_stage_of_mislas_is_a_cosine_from_a_tenth(cifar):
    stage = build_recipe("mislas", cifar()).stages[1]
    expected = [0.1 * 0.5 * (1 + math.cos(math.pi * e / 10)) for e in range(10)]
    assert rates(stage) == pytest.approx(expected, rel=1e-14)


def test_the_second_stage_of_gcl_starts_at_two_thousandths(cifar):
    stage = build_recipe("gcl", cifar()).stages[1]
    expected = [0.1 * (0.1 * 0.1 * (1 + math.cos(math.pi * e / 30))) for e in range(30)]
    assert rates(stage) == pytest.approx(expected, rel=1e-14)
    assert expected[0] == pytest.approx(0.002)


def test_the_second_stage_of_cc_sam_is_constant(cifar):
    for released in (False, True):
        stage = build_recipe("cc-sam", cifar(), released_code=released).stages[1]
        assert rates(stage) == pytest.approx([0.01] * 30, rel=1e-14)


def test_released_cc_sam_steps_its_schedule_before_the_epoch(cifar):
    """Warm-up from a third over five epochs, drops at 160 and 180, all one epoch early."""
    stage = build_recipe("cc-sam", cifar(), released_code=True).stages[0]
    factors = [stage.schedule.factor(e, 200) for e in range(1, 201)]
    expected = []
    for index in range(200):
        steps = index + 1
        warmup = 1 / 3 + (1 - 1 / 3) * min(steps, 5) / 5
        expected.append(warmup * (0.01 if steps >= 180 else 0.1 if steps >= 160 else 1))
    assert factors == pytest.approx(expected, rel=1e-14)
    assert f"{factors[0]:.3f}" == "0.467"
    drops = [i for i in range(1, 200) if factors[i] < factors[i - 1]]
    assert drops == [159, 179], "counted from 0"


@pytest.mark.parametrize("epochs", [40, 100, 400])
def test_a_stretched_schedule_drops_at_the_same_fractions(epochs):
    schedule = MultiStep((160, 180), (1e-2, 1e-4))
    factors = [schedule.factor(e, epochs) for e in range(1, epochs + 1)]
    share = {value: factors.count(value) / epochs for value in (1e-2, 1e-4)}
    assert share == {1e-2: 0.1, 1e-4: 0.1}
    assert factors == [ldam_rule(200 * e / epochs, 1.0) for e in range(1, epochs + 1)]


@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 30, 200])
def test_cosine_is_symmetric_and_never_reaches_zero(epochs):
    factors = [Cosine().factor(e, epochs) for e in range(1, epochs + 1)]
    assert factors[0] == 1
    assert min(factors) > 0
    for e in range(1, epochs):
        assert factors[e] + factors[epochs - e] == pytest.approx(1)
    assert factors == sorted(factors, reverse=True)


def test_constant_is_one():
    assert {Constant().factor(e, 30) for e in range(1, 31)} == {1.0}


def test_a_warmed_up_cosine_is_a_line_and_then_a_cosine():
    schedule = WarmupCosine(0.25, start=0.5)
    factors = [schedule.factor(e, 8) for e in range(1, 9)]
    assert factors[:2] == [0.5, 0.75]
    assert factors[2:] == pytest.approx([Cosine().factor(e, 6) for e in range(1, 7)], rel=1e-14)
    stretched = [schedule.factor(e, 80) for e in range(1, 81)]
    assert stretched[::10] == pytest.approx(factors, rel=1e-14)
    assert [WarmupCosine(0.0).factor(e, 5) for e in range(1, 6)] == [Cosine().factor(e, 5) for e in range(1, 6)]


def izmailov_rule(epoch, lr=0.1, swa_start=161, swa_lr=0.05):
    """The schedule of the SWA code; epoch counts from 0."""
    t = epoch / swa_start
    if t <= 0.5:
        factor = 1.0
    elif t <= 0.9:
        factor = 1.0 - (1.0 - swa_lr / lr) * (t - 0.5) / 0.4
    else:
        factor = swa_lr / lr
    return lr * factor


def test_averaging_has_the_rate_of_its_code_in_every_epoch():
    schedule = Averaged(Constant(), start=0.8, final=0.05 / 0.1)
    for epoch in range(1, 201):
        assert 0.1 * schedule.factor(epoch, 200) == pytest.approx(izmailov_rule(epoch - 1), rel=1e-12)


@pytest.mark.parametrize("own", [MultiStep((160, 180), (1e-2, 1e-4)), Cosine()])
@pytest.mark.parametrize("epochs", [1, 2, 7, 40, 200])
@pytest.mark.parametrize("start", [0.0, 0.5, 0.8])
def test_the_own_schedule_holds_at_first_and_the_constant_where_it_is_averaged(own, epochs, start):
    schedule = Averaged(own, start, final=0.5)
    before = 1 + start * epochs
    for epoch in range(1, epochs + 1):
        if (epoch - 1) / before <= 0.5:
            assert schedule.factor(epoch, epochs) == own.factor(epoch, epochs)
        elif (epoch - 1) / before >= 0.9:
            assert schedule.factor(epoch, epochs) == pytest.approx(0.5)
    steps = [schedule.factor(e, epochs) for e in range(1, epochs + 1) if 0.5 < (e - 1) / before < 0.9]
    assert steps in (sorted(steps), sorted(steps, reverse=True))
