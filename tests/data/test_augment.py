"""Augmentation by property."""

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from sharpness.data.augment import AUGMENTATIONS, augment, augment_batches, mixup, random_crop, random_flip
from sharpness.data.resized_crop import RESIZED_CROPS
from sharpness.errors import UserError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=300, channels=3, height=6, width=5):
    return torch.randint(1, 256, (n, channels, height, width), dtype=torch.uint8, generator=generator(9))


@pytest.mark.parametrize("padding", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_crop_is_a_slice_of_the_padded_image_and_all_offsets_occur(padding, dtype):
    original = images(1000).to(dtype)
    cropped = random_crop(original, padding, generator())
    padded = F.pad(original, (padding,) * 4)
    height, width = original.shape[2:]
    offsets = []
    for before, after in zip(padded, cropped, strict=True):
        found = [
            (dy, dx)
            for dy in range(2 * padding + 1)
            for dx in range(2 * padding + 1)
            if torch.equal(before[:, dy : dy + height, dx : dx + width], after)
        ]
        assert len(found) == 1
        offsets += found
    assert cropped.dtype == dtype
    table = np.zeros((2 * padding + 1,) * 2)
    np.add.at(table, tuple(np.array(offsets).T), 1)
    assert (table > 0).all()
    assert stats.chisquare(table.ravel()).pvalue > 1e-3


def test_no_padding_changes_nothing():
    assert torch.equal(random_crop(images(), 0, generator()), images())
    with pytest.raises(UserError):
        random_crop(images(), -1, generator())


def test_the_same_flip_twice_is_the_identity():
    original = images()
    once = random_flip(original, generator(3))
    assert torch.equal(random_flip(once, generator(3)), original)


def test_each_image_is_mirrored_or_not_with_equal_chance():
    original = images(2000)
    flipped = random_flip(original, generator())
    mirrored = (flipped == original.flip(-1)).flatten(1).all(1)
    assert ((flipped == original).flatten(1).all(1) ^ mirrored).all()
    assert stats.binomtest(int(mirrored.sum()), 2000).pvalue > 1e-3


def test_augmentation_is_crop_then_flip():
    original = images()
    draws = generator(4)
    assert torch.equal(
        augment(original, "crop-flip", 2, generator(4)), random_flip(random_crop(original, 2, draws), draws)
    )
    assert torch.equal(augment(original, "crop", 2, generator(4)), random_crop(original, 2, generator(4)))
    assert augment(original, "none", 2, generator(4)) is original
    with pytest.raises(UserError, match="crop-flip, crop, none"):
        augment(original, "cutout", 2, generator())


def test_augmentation_leaves_its_input_and_the_global_generators_alone():
    original = images()
    before, torch_state, numpy_state = (
        original.clone(),
        torch.get_rng_state(),
        np.random.get_state()[1].copy(),
    )
    augment(original, "crop-flip", 1, generator())
    mixup(original.float(), 1.0, generator())
    assert torch.equal(original, before)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()


def test_draws_repeat_with_the_generator_and_differ_without():
    original = images()
    assert torch.equal(augment(original, "crop-flip", 4, generator(1)), augment(original, "crop-flip", 4, generator(1)))
    assert not torch.equal(
        augment(original, "crop-flip", 4, generator(1)), augment(original, "crop-flip", 4, generator(2))
    )
    a, b = mixup(original.float(), 1.0, generator(1)), mixup(original.float(), 1.0, generator(1))
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1], b[1])
    assert a[2] == b[2]


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_lambda_follows_the_beta_distribution(alpha):
    source = generator(5)
    x = torch.zeros(1, 1)
    lams = np.array([mixup(x, alpha, source)[2] for _ in range(4000)])
    variance = 1 / (4 * (2 * alpha + 1))
    assert lams.mean() == pytest.approx(0.5, abs=4 * np.sqrt(variance / 4000))
    assert lams.var() == pytest.approx(variance, rel=0.1)
    assert stats.kstest(lams, stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def test_mixup_mixes_each_sample_with_its_partner():
    x = torch.randn(50, 3, 4, 4, generator=generator())
    mixed, partner, lam = mixup(x, 1.0, generator(2))
    assert partner.sort().values.tolist() == list(range(50))
    for i in range(50):
        torch.testing.assert_close(mixed[i], x[i] * lam + x[int(partner[i])] * (1 - lam))
    assert 0 <= lam <= 1


@pytest.mark.parametrize("alpha", [0, -1, float("nan"), float("inf")])
def test_mixup_refuses_an_impossible_alpha(alpha):
    with pytest.raises(UserError, match="alpha"):
        mixup(torch.zeros(2, 2), alpha, generator())


def test_mixup_refuses_integers():
    with pytest.raises(UserError, match="uint8"):
        mixup(images(), 1.0, generator())


@pytest.mark.parametrize("kind", [kind for kind in AUGMENTATIONS if kind not in RESIZED_CROPS])
@pytest.mark.parametrize("at_once", [1, 70, 1000])
def test_batches_are_augmented_each_with_the_draws_of_its_images(kind, at_once, monkeypatch):
    """One after another, but for AutoAugment, whose batches of so many pixels share their draws."""
    monkeypatch.setattr(sys.modules["sharpness.data.augment"], "PIXELS_AT_ONCE", at_once * 30)
    original = images(100)
    batches = list(torch.randperm(100, generator=generator(1)).split(32))
    found = list(augment_batches(original, batches, kind, 2, generator(4)))
    draws, group = generator(4), max(1, at_once // 32) if kind == "autoaugment-cutout" else 1
    expected = []
    for i in range(0, len(batches), group):
        expected.append(augment(original[torch.cat(batches[i : i + group])], kind, 2, draws))
    assert [len(x) for x in found] == [32, 32, 32, 4]
    assert torch.equal(torch.cat(found), torch.cat(expected))
    assert list(augment_batches(original, [], kind, 2, generator())) == []
