"""LWS: its second stage."""

from dataclasses import replace

from sharpness.methods import build_recipe
from sharpness.methods.changes import AddWeightScaling
from sharpness.methods.cross_entropy import CrossEntropy
from sharpness.methods.schedules import Cosine


def test_the_factors_alone_learn_on_balanced_samples(cifar):
    first, second = build_recipe("lws", cifar()).stages
    assert (first,) == build_recipe("ce", cifar()).stages
    assert (second.loss, second.schedule, second.lr) == (CrossEntropy(), Cosine(), first.lr)
    assert (second.sampler, second.trainable) == ("class_balanced:4", "head.factor")
    assert second.enter == (AddWeightScaling(),)
    assert (second.frozen_batchnorm, second.mixup, second.weight_decay) == (True, 0, first.weight_decay)


def test_the_second_stage_has_the_published_share_of_the_first(cifar):
    first, second = build_recipe("lws", cifar()).stages
    assert abs(second.epochs - first.epochs * 5 / 90) <= 0.5
    assert [s.epochs for s in build_recipe("lws", cifar()).with_epochs(90).stages] == [90, 5]


def test_batchnorm_can_follow_the_sampler_as_in_the_released_code(cifar):
    second = build_recipe("lws", cifar()).stages[1]
    assert build_recipe("lws", cifar(), shift_batchnorm=True).stages[1] == replace(second, frozen_batchnorm=False)
