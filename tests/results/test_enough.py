"""How much more would be enough: of errors that are known, and of two models that differ by a known amount."""

import math

import pytest
import torch
from torch import nn

import sharpness
from sharpness import Objective
from sharpness.results import Comparison
from sharpness.results.enough import enough, times_as_many


@pytest.fixture
def tables():
    """Losses of constant logits (u, 0): log(1 + e^-u) of label 0, log(1 + e^u) of label 1; their spread is known."""

    def table(u, ones):
        model = nn.Linear(1, 2).double()
        with torch.no_grad():
            model.weight.zero_()
            model.bias.copy_(torch.tensor([u, 0.0]))
        y = torch.tensor([0] * (100 - ones) + [1] * ones)
        return sharpness.measure(
            Objective(model, (torch.ones(100, 1).double(), y), classes=torch.zeros(100).long()), "loss"
        )

    return Comparison({"a": table(1.0, 20), "b": table(1.0, 25), "c": table(1.0, 80)})


def closed(ones, u=1.0):
    """Mean and standard error of the loss."""
    values = [math.log1p(math.exp(-u))] * (100 - ones) + [math.log1p(math.exp(u))] * ones
    mean = sum(values) / 100
    return mean, (sum((v - mean) ** 2 for v in values) / 99 / 100) ** 0.5


def test_the_widest_error_and_what_halves_it(tables):
    mean, error = max((closed(ones) for ones in (20, 25, 80)), key=lambda pair: pair[1] / pair[0])
    share = 100 * error / mean
    assert share < 10  # so that whole per cents would round both numbers to one
    assert (
        f"loss of a, {share:.1f}% of the value; twice as many images would take it to {share / 2**0.5:.1f}%"
        in enough(tables)[0]
    )


def test_models_that_are_not_told_apart_and_how_many_images_would(tables):
    (a, sa), (b, sb) = closed(20), closed(25)
    times = (2 * math.hypot(sa, sb) / (b - a)) ** 2
    assert times > 2  # so that the pair is told of, and the far one is not
    assert enough(tables)[1].endswith(f"loss of a and b ({times:.0f} times as many would)")
    assert times_as_many(1.0, 1.0, 0.1, 0.1) == math.inf


def test_one_model_is_compared_with_nothing(tables):
    (line,) = enough({"a": tables["a"]})
    assert line.startswith("widest error of all samples: loss, ")
