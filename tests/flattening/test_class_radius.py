"""How far the weights move for each class: the bounded length against its definition, number by number."""

import math

import pytest
import torch

from sharpness.data import profile_counts
from sharpness.errors import UserError
from sharpness.flattening.class_radius import Perturbation, longest_step

COUNTS = profile_counts("exp", 100, 10, 5000)
W, K = 4.5, 650


def lengths(gradients, counts=COUNTS, **options):
    counts, g = torch.tensor(counts), torch.tensor(gradients, dtype=torch.float64)
    return Perturbation(**options).length(torch.tensor(W).double(), g, K, counts, counts.min()).tolist()


def formula(g, n, rho_scale=1.0):
    return rho_scale * math.sqrt(W / (2 * g)) * K**0.25 * (n - 1) ** -0.25


GRADIENTS = [10.0 ** (1 - c) for c in range(10)]


@pytest.mark.parametrize("mode", ["full", "magnitude"])
@pytest.mark.parametrize("cap", [0.02, 0.5, 20.0])
@pytest.mark.parametrize("rho_scale", [0.01, 1.0])
def test_the_length_is_the_smaller_of_formula_and_limit(rho_scale, cap, mode):
    rarest = min(COUNTS)
    expected = [
        min(formula(g, n, rho_scale), cap * W * ((rarest - 1) / (n - 1)) ** 0.25)
        for g, n in zip(GRADIENTS, COUNTS, strict=True)
    ]
    assert lengths(GRADIENTS, rho_scale=rho_scale, mode=mode, cap=cap) == pytest.approx(expected, rel=1e-12)
    assert max(expected) <= cap * W


def test_without_a_cap_it_is_the_formula():
    expected = [formula(g, n, 0.3) for g, n in zip(GRADIENTS, COUNTS, strict=True)]
    assert lengths(GRADIENTS, rho_scale=0.3) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("gradient", [1.0, 1e-6, 0.0])
@pytest.mark.parametrize(
    ("classes", "largest", "imbalance", "ratio"),
    [(10, 5000, 200, "3.80"), (10, 5000, 100, "3.18"), (100, 500, 50, "2.73")],
)
def test_classes_of_one_gradient_keep_the_published_ratio_whether_or_not_the_cap_binds(
    classes, largest, imbalance, ratio, gradient
):
    counts = profile_counts("exp", imbalance, classes, largest)
    found = lengths([gradient] * classes, counts, cap=0.05)
    assert f"{found[-1] / found[0]:.2f}" == ratio


@pytest.mark.parametrize("sure", [0, 5, 9])
def test_a_class_that_is_sure_leaves_the_others_alone(sure):
    gradients = [0.3] * 10
    before = lengths(gradients, rho_scale=0.01, cap=0.05)
    gradients[sure] = 1e-9
    after = lengths(gradients, rho_scale=0.01, cap=0.05)
    assert [a for c, a in enumerate(after) if c != sure] == [b for c, b in enumerate(before) if c != sure]
    assert before[sure] < after[sure] <= 0.05 * W


def test_a_step_of_length_one_is_bounded_for_every_class_alike():
    assert lengths(GRADIENTS, mode="direction") == [1.0] * 10
    assert lengths(GRADIENTS, mode="direction", cap=0.1) == pytest.approx([0.45] * 10, rel=1e-12)
    assert lengths(GRADIENTS, mode="direction", cap=0.5) == [1.0] * 10


def test_classes_of_one_image_count_as_two():
    counts = torch.tensor([17, 2, 1])
    limit = longest_step(0.1, torch.tensor(2.0), counts, counts.min())
    assert limit.tolist() == pytest.approx([0.1, 0.2, 0.2])


@pytest.mark.parametrize("cap", [0, -0.1, math.nan, math.inf, True, "small"])
def test_what_bounds_nothing_is_refused(cap):
    with pytest.raises(UserError, match="cap=.*give a positive share"):
        Perturbation(cap=cap)
