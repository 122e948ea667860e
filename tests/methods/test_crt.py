"""cRT and LWS: their second stages."""

from dataclasses import replace

import pytest

from sharpness.methods import build_recipe
from sharpness.methods.changes import AddWeightScaling, NewHead
from sharpness.methods.cross_entropy import CrossEntropy
from sharpness.methods.schedules import Cosine


@pytest.mark.parametrize(
    ("method", "published", "trainable", "change"),
    [("crt", 10, "head", NewHead()), ("lws", 5, "head.factor", AddWeightScaling())],
)
def test_a_part_of_the_head_learns_on_balanced_samples(cifar, method, published, trainable, change):
    first, second = build_recipe(method, cifar()).stages
    assert (first,) == build_recipe("ce", cifar()).stages
    assert (second.loss, second.schedule, second.lr) == (CrossEntropy(), Cosine(), first.lr)
    assert (second.sampler, second.trainable, second.enter) == ("class_balanced:4", trainable, (change,))
    assert (second.frozen_batchnorm, second.mixup, second.weight_decay) == (True, 0, first.weight_decay)
    assert abs(second.epochs - first.epochs * published / 90) <= 0.5
    assert [s.epochs for s in build_recipe(method, cifar()).with_epochs(90).stages] == [90, published]
    shifted = build_recipe(method, cifar(), shift_batchnorm=True)
    assert shifted.stages[1] == replace(second, frozen_batchnorm=False), "as in the released code"
