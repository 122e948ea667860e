"""Images in memory."""

import numpy as np
import pytest
import torch

from sharpness.data.dataset import ImageSet, LongTailData
from sharpness.data.longtail import LongTail
from sharpness.errors import UserError

LABELS = torch.tensor([2, 0, 1, 0, 2, 0, 2, 2])


def image_set(labels=LABELS, channels=3):
    images = torch.randint(0, 256, (len(labels), channels, 5, 4), dtype=torch.uint8, generator=torch.manual_seed(0))
    return ImageSet(images, labels, (0.5, 0.4, 0.3)[:channels], (0.2, 0.25, 0.3)[:channels])


def test_normalisation_is_the_stated_formula():
    data = image_set()
    x, y = data.tensors
    mean, std = np.array(data.mean)[:, None, None], np.array(data.std)[:, None, None]
    np.testing.assert_allclose(x.numpy(), (data.images.numpy() / 255 - mean) / std, rtol=1e-5, atol=1e-6)
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    assert torch.equal(data.normalize(data.images[:2]), x[:2])


def test_reading_tensors_leaves_the_images_alone():
    data = image_set()
    before = data.images.clone()
    data.tensors[0].zero_()
    assert torch.equal(data.images, before)


def test_it_is_consumed_like_a_tensor_dataset():
    data = image_set()
    other = torch.utils.data.TensorDataset(*data.tensors)
    assert len(other) == len(data)
    assert all(torch.equal(a, b) for a, b in zip(other.tensors, data.tensors, strict=True))


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_a_subset_is_in_the_order_of_its_indices(kind):
    data = image_set()
    part = data.subset(kind([4, 0, 1]))
    assert torch.equal(part.images, data.images[[4, 0, 1]])
    assert part.labels.tolist() == [2, 2, 0]


@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_a_limit_keeps_the_first_of_each_class_in_order(n):
    data = image_set()
    kept, seen = [], {0: 0, 1: 0, 2: 0}
    for i, label in enumerate(LABELS.tolist()):
        seen[label] += 1
        if seen[label] <= n:
            kept.append(i)
    limited = data.limit_per_class(n)
    assert torch.equal(limited.images, data.images[kept])
    assert torch.equal(limited.labels, LABELS[kept])


def test_a_limit_below_one_is_refused():
    with pytest.raises(UserError):
        image_set().limit_per_class(0)


def test_class_counts_include_absent_classes():
    assert image_set().class_samples(5).tolist() == [3, 1, 4, 0, 0]


def test_moving_to_a_device_moves_both_tensors():
    moved = image_set().to("meta")
    assert moved.images.device.type == moved.labels.device.type == "meta"


@pytest.mark.parametrize(("label", "index"), [(3, 5), (-1, 2)])
def test_the_first_label_outside_the_range_is_named(label, index):
    labels = LABELS.clone()
    labels[index] = label
    labels[7] = 99
    data = image_set(labels)
    message = f"label {label} at index {index} is outside 0..2"
    with pytest.raises(UserError, match=message):
        data.class_samples(3)
    tail = LongTail("toy", ("a", "b", "c"), "exp", 2.0, "first_n", (3, 2, 2), "oltr")
    with pytest.raises(UserError, match=message):
        LongTailData(tail, data, image_set(), "crop", 1, "resnet8")
    with pytest.raises(UserError, match=message):
        LongTailData(tail, image_set(), data, "crop", 1, "resnet8")


@pytest.mark.parametrize(
    "change",
    [
        {"images": torch.zeros(8, 3, 4, 4)},
        {"images": torch.zeros(8, 48, dtype=torch.uint8)},
        {"labels": LABELS.float()},
        {"labels": LABELS[:3]},
        {"mean": (0.5,)},
        {"std": (0.5, 0.5, 0.0)},
    ],
)
def test_wrong_arrays_are_refused(change):
    data = image_set()
    good = {"images": data.images, "labels": data.labels, "mean": data.mean, "std": data.std}
    with pytest.raises(UserError):
        ImageSet(**{**good, **change})


def from_pool(pool, **changes):
    options = {
        "class_names": ("a", "b", "c"),
        "profile": "exp",
        "imbalance": 4,
        "subset": "first_n",
        "groups": "2,2",
        "n_max": 4,
        "augmentation": "crop",
        "padding": 1,
        "default_model": "resnet8",
    }
    return LongTailData.from_pool("toy", pool, image_set(), **{**options, **changes})


def test_a_long_tail_is_cut_out_of_a_pool():
    pool = image_set(torch.arange(3).repeat(4))
    data = from_pool(pool)
    assert data.train_counts == (4, 2, 1)
    assert tuple(data.train.class_samples(3).tolist()) == data.train_counts
    assert torch.equal(data.train.images, pool.images[[0, 3, 6, 9, 1, 4, 2]])
    assert (data.num_classes, data.class_names) == (3, ("a", "b", "c"))
    assert data.groups == {"many": (0,), "medium": (1,), "few": (2,)}
    assert "7 training and 8 test" in repr(data)


def test_a_pool_that_is_too_small_is_refused():
    with pytest.raises(UserError, match="class 'b' is asked for 4 images and has 3"):
        from_pool(image_set(torch.tensor([0, 0, 0, 0, 1, 1, 1, 2])), imbalance=1)


def test_an_unknown_augmentation_lists_the_choices():
    with pytest.raises(UserError, match="crop-flip, crop, none"):
        from_pool(image_set(torch.arange(3).repeat(4)), augmentation="cutout")
