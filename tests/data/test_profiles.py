"""Class counts against the published tables."""

import numpy as np
import pytest

from sharpness.data.profiles import (
    PROFILES,
    check_present,
    largest_imbalance,
    profile_counts,
    smallest_imbalance,
)
from sharpness.errors import UserError


@pytest.mark.parametrize(
    ("imbalance", "total", "counts"),
    [
        (200, 11203, (5000, 2775, 1540, 854, 474, 263, 146, 81, 45, 25)),
        (100, 12406, (5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50)),
        (50, 13996, (5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100)),
        (10, 20431, (5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500)),
    ],
)
def test_exp_profile_of_cifar10_is_the_published_one(imbalance, total, counts):
    assert profile_counts("exp", imbalance, 10, 5000) == counts
    assert sum(counts) == total


@pytest.mark.parametrize(
    ("imbalance", "total", "head", "tail"),
    [
        (200, 9502, (500, 473, 449), (2, 2, 2)),
        (100, 10847, (500, 477, 455), (5, 5, 5)),
        (50, 12608, (500, 480, 462), (10, 10, 10)),
        (10, 19573, (500, 488, 477), (52, 51, 50)),
    ],
)
def test_exp_profile_of_cifar100_is_the_published_one(imbalance, total, head, tail):
    counts = profile_counts("exp", imbalance, 100, 500)
    assert (counts[:3], counts[-3:], sum(counts)) == (head, tail, total)


@pytest.mark.parametrize(
    ("num_classes", "imbalance", "last"),
    [
        (10, 200, 24),
        (10, 100, 50),
        (10, 50, 99),
        (10, 10, 500),
        (100, 200, 2),
        (100, 100, 4),
        (100, 50, 9),
        (100, 10, 49),
    ],
)
@pytest.mark.parametrize("kind", [int, float])
def test_m2m_profile_rounds_its_last_class_as_published(num_classes, imbalance, last, kind):
    n_max = 50000 // num_classes
    counts = profile_counts("exp_m2m", kind(imbalance), num_classes, n_max)
    assert counts[-1] == last
    exp = np.array(profile_counts("exp", imbalance, num_classes, n_max))
    assert np.abs(exp - counts).max() <= 1
    assert counts[0] == n_max


def test_step_profile_has_two_levels():
    assert profile_counts("step", 100, 10, 5000) == (5000,) * 5 + (50,) * 5
    assert profile_counts("step", 10, 5, 100) == (100, 100, 10, 10, 10)


@pytest.mark.parametrize("profile", PROFILES)
def test_imbalance_one_is_balanced(profile):
    assert profile_counts(profile, 1, 7, 30) == (30,) * 7


@pytest.mark.parametrize("profile", PROFILES)
def test_an_emptied_class_is_named_with_the_largest_imbalance_that_works(profile):
    with pytest.raises(UserError, match=r"class 'frog' keeps 0 images at imbalance 500: .* one is (49|48.99)"):
        profile_counts(profile, 500, 3, 49, class_names=["cat", "dog", "frog"])


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("n_max", [1, 7, 49, 124, 5000])
def test_largest_imbalance_keeps_every_class_and_a_larger_one_does_not(profile, n_max):
    largest = largest_imbalance(profile, 10, n_max)
    assert min(profile_counts(profile, largest, 10, n_max)) == 1
    with pytest.raises(UserError):
        profile_counts(profile, largest * 1.001 + 0.02, 10, n_max)


def test_smallest_imbalance_is_the_border_of_what_is_present():
    present = profile_counts("exp", 10, 10, 5000)
    smallest = smallest_imbalance("exp", present, 5000)
    assert smallest == pytest.approx(10, abs=0.02)
    assert all(a <= p for a, p in zip(profile_counts("exp", smallest, 10, 5000), present, strict=True))
    asked = profile_counts("exp", smallest - 0.02, 10, 5000)
    assert any(a > p for a, p in zip(asked, present, strict=True))
    assert smallest_imbalance("exp", (20,) * 10, 20) == 1
    assert smallest_imbalance("exp", (10, 20), 20) is None


def test_a_class_with_too_few_images_is_named_with_the_remedy():
    names = ("cat", "dog")
    check_present("exp", (100, 20), (100, 20), 100, names)
    with pytest.raises(UserError, match=r"'dog' is asked for 50 images and has 20: .* allow is 4.77"):
        check_present("exp", (100, 50), (100, 20), 100, names)
    with pytest.raises(UserError, match="allow no imbalance"):
        check_present("exp", (100, 10), (90, 100), 100, names)


@pytest.mark.parametrize("imbalance", [0.5, 0, -3, float("nan"), float("inf"), "100", True, None])
def test_an_impossible_imbalance_is_the_users_mistake(imbalance):
    with pytest.raises(UserError, match="imbalance"):
        profile_counts("exp", imbalance, 10, 5000)


def test_an_unknown_profile_lists_the_choices():
    with pytest.raises(UserError, match="'pareto'.*exp, step, exp_m2m"):
        profile_counts("pareto", 10, 10, 5000)
    with pytest.raises(UserError, match="'listed'.*exp, step, exp_m2m"):
        profile_counts("listed", 10, 10, 5000)


@pytest.mark.parametrize(("num_classes", "n_max"), [(1, 10), (0, 10), (10, 0)])
def test_too_few_classes_or_images_are_refused(num_classes, n_max):
    with pytest.raises(UserError):
        profile_counts("exp", 1, num_classes, n_max)
