"""The embedded digits."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from sharpness.data.digits import digit_pools, load_digits_lt
from sharpness.errors import UserError


def test_the_test_set_is_the_last_fifty_of_each_class():
    bunch = load_digits()
    _, test = digit_pools()
    last = sorted(i for c in range(10) for i in np.flatnonzero(bunch.target == c)[-50:])
    assert test.labels.tolist() == bunch.target[last].tolist()
    grey = np.floor(bunch.images[last] * 255 / 16 + 0.5)
    assert (test.images[:, 0].numpy() == grey).all()


def test_without_the_file_they_are_those_of_the_library(monkeypatch):
    known = digit_pools()
    monkeypatch.setattr("sharpness.data.digits.find_spec", lambda name: None)
    for read, again in zip(known, digit_pools(), strict=True):
        assert torch.equal(read.images, again.images) and torch.equal(read.labels, again.labels)


def test_pool_and_test_split_the_digits():
    pool, test = digit_pools()
    assert len(pool) + len(test) == 1797
    assert test.class_samples(10).tolist() == [50] * 10
    assert int(pool.class_samples(10).min()) == 124
    assert int(pool.images.max()) == 255


def test_no_recipe_changes_the_test_set_or_the_statistics():
    first = load_digits_lt()
    for data in (load_digits_lt(imbalance=2, subset="first_n"), load_digits_lt("step", 10, "seed:5")):
        assert torch.equal(data.test.images, first.test.images)
        assert (data.train.mean, data.train.std) == (first.train.mean, first.train.std)


def test_the_pool_is_normalised_to_mean_zero_and_variance_one():
    x, _ = digit_pools()[0].tensors
    assert float(x.mean()) == pytest.approx(0, abs=1e-5)
    assert float(x.std(correction=0)) == pytest.approx(1, abs=1e-5)


def test_the_default_tail_keeps_at_least_three_images():
    data = load_digits_lt()
    assert (data.train_counts[0], data.train_counts[-1]) == (124, 4)
    assert tuple(data.train.class_samples(10).tolist()) == data.train_counts
    assert (data.augmentation, data.padding, data.default_model) == ("crop", 1, "resnet8")
    assert (data.longtail.dataset, data.longtail.group_convention) == ("digits-lt", "oltr")
    assert all(data.groups.values())


def test_two_loads_are_equal():
    a, b = load_digits_lt(), load_digits_lt()
    assert a.longtail == b.longtail
    assert torch.equal(a.train.images, b.train.images)


def test_the_balanced_pool_is_available():
    assert load_digits_lt(imbalance=1).train_counts == (124,) * 10


def test_an_imbalance_that_empties_a_class_is_refused():
    with pytest.raises(UserError, match="class '9' keeps 0 images at imbalance 1000: .* one is 124"):
        load_digits_lt(imbalance=1000)
