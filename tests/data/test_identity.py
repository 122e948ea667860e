"""Which samples are the same: by pixels, whatever normalises them; by values, as they stand; or by names."""

import time
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from sharpness import UserError
from sharpness.data import Content, ImageSet, SampleIdentity, read_images
from sharpness.data.content import pixel_digests, value_digests

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


@pytest.fixture
def images():
    return torch.randint(0, 256, (40, 3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def normalised(images, mean, std, dtype=torch.float32):
    m, s = (torch.tensor(v, dtype=dtype)[:, None, None] for v in (mean, std))
    return (images.to(dtype) / 255 - m) / s


def of(data, x=None, **options):
    return Content.of(data, data.tensors[0] if x is None else x, **options)


@pytest.mark.parametrize("constants", [IMAGENET, HALF, ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_normalisation_that_is_told_is_undone(constants, dtype, images):
    x = normalised(images, *constants, torch.float64).to(dtype)
    found = of(None, x, mean=constants[0], std=constants[1])
    assert found.by == "pixels" and (found.mean, found.std) == constants
    np.testing.assert_array_equal(found.digests, pixel_digests(images))
    flat = of(None, x.flatten(1), mean=constants[0], std=constants[1])
    last = of(None, x.movedim(1, 3), mean=constants[0], std=constants[1])
    np.testing.assert_array_equal(flat.digests, found.digests)
    np.testing.assert_array_equal(last.digests, found.digests)


def test_sets_of_images_files_and_tensors_agree(images, tmp_path):
    labels = torch.arange(40) % 2
    own = ImageSet(images, labels, *IMAGENET)
    for i, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        path = tmp_path / f"{label}" / f"{i:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    wanted = Counter(pixel_digests(images).tolist())
    for size in (None, 4, 12):
        read = read_images(tmp_path, size=size)
        assert Counter(read.content.digests.tolist()) == wanted
        limited = read.limit_per_class(3)
        assert not Counter(limited.content.digests.tolist()) - wanted and len(limited.content.digests) == 6
    grey = read_images(tmp_path, channels=1)
    assert Counter(grey.content.digests.tolist()) == wanted
    arrays = read_images((images.permute(0, 2, 3, 1).numpy(), labels), mean=HALF[0], std=HALF[1])
    floats = read_images((images / 255, labels), mean=HALF[0], std=HALF[1])
    given = of(None, normalised(images, *HALF), mean=HALF[0], std=HALF[1])
    bare, last = of(None, images), of(None, images.movedim(1, 3))
    for one in (own.content, arrays.content, floats.content, given, bare, last):
        assert one.by == "pixels"
        np.testing.assert_array_equal(one.digests, pixel_digests(images))


def test_grey_images_may_be_in_one_channel_or_three(images):
    grey = images[:, :1]
    digests = pixel_digests(grey)
    np.testing.assert_array_equal(pixel_digests(grey.repeat(1, 3, 1, 1)), digests)
    x = normalised(grey.repeat(1, 3, 1, 1), *IMAGENET)
    np.testing.assert_array_equal(of(None, x, mean=IMAGENET[0], std=IMAGENET[1]).digests, digests)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"mean": (0.485, 0.456, 0.406), "std": (0.2, 0.224, 0.225)},
            "do not lead from the inputs back to 8-bit pixels",
        ),
        ({"mean": (0.5,), "std": (0.5,)}, "do not lead"),
        ({"mean": IMAGENET[0]}, "give mean and std together"),
        ({"mean": (0.5, 0.5), "std": (0.2, 0.2, 0.2)}, "one of each for every channel"),
        ({"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.0)}, "std above 0"),
        ({"mean": (0.5,) * 7, "std": (0.2,) * 7}, "mean of 7 channels and inputs of shape"),
        ({"names": ["a"]}, "names: 1 for 40 samples: give one for each"),
        ({"names": "a" * 40}, "names: 40 for 40 samples: give one for each"),
    ],
)
def test_what_cannot_be_is_refused(options, message, images):
    with pytest.raises(UserError, match=message):
        of(None, normalised(images, *IMAGENET), **options)


def test_inputs_that_are_not_finite_or_no_images_are_refused(images):
    x = normalised(images, *IMAGENET)
    x[3, 0, 0, 0] = float("nan")
    with pytest.raises(UserError, match="names="):
        of(None, x, mean=IMAGENET[0], std=IMAGENET[1])
    with pytest.raises(UserError, match="an ImageSet knows its own|a ImageSet knows its own"):
        of(ImageSet(images, torch.zeros(40, dtype=torch.int64), *IMAGENET), mean=HALF[0], std=HALF[1])


def test_numbers_count_as_they_stand_in_any_dtype():
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    digests = value_digests(x)
    assert len(set(digests.tolist())) == 9
    np.testing.assert_array_equal(value_digests(x.double()), digests)
    tokens = torch.arange(12).view(3, 4)
    np.testing.assert_array_equal(value_digests(tokens.int()), value_digests(tokens))
    assert not np.isin(value_digests(x + 1e-3), digests).any()
    np.testing.assert_array_equal(value_digests(torch.randn(5000, 2)[:3000]).shape, (3000,))


def test_names_are_whatever_is_told():
    x = torch.randn(3, 2)
    assert of(None, x, names=["a", "b", "a"]).by == "names"
    by_list, by_tensor = of(None, x, names=[5, 6, 7]), of(None, x + 1, names=torch.tensor([5, 6, 7]))
    np.testing.assert_array_equal(by_list.digests, by_tensor.digests)
    np.testing.assert_array_equal(of(None, x, names=np.array([5, 6, 7])).digests, by_list.digests)


def identity(digests, classes, weights=None):
    return SampleIdentity(
        "pixels", np.array(classes), np.array(digests, dtype=np.uint64), None if weights is None else np.array(weights)
    )


def test_what_is_missing_agrees_with_counting():
    """Multisets: an image that is there twice must be there twice in the other, too."""
    random = np.random.default_rng(0)
    for _ in range(50):
        a, b = (identity(random.integers(0, 9, n), random.integers(0, 2, n)) for n in random.integers(1, 30, 2))
        pairs = [list(zip(one.digests.tolist(), one.classes.tolist(), strict=True)) for one in (a, b)]
        wanted = Counter(pairs[0]) - Counter(pairs[1])
        found = a.missing_in(b)
        assert Counter(pairs[0][i] for i in found) == wanted
        bare = Counter(a.digests.tolist()) - Counter(b.digests.tolist())
        assert Counter(a.digests[a.missing_in(b, classes=False)].tolist()) == bare


def test_an_order_is_found_and_the_digest_of_all_does_not_know_it():
    random = np.random.default_rng(1)
    digests, classes = random.integers(0, 9, 30), random.integers(0, 2, 30)
    weights = random.random(30)
    shuffle = random.permutation(30)
    for w in (None, weights):
        a = identity(digests, classes, w)
        b = identity(digests[shuffle], classes[shuffle], None if w is None else w[shuffle])
        order = a.order_of(b)
        np.testing.assert_array_equal(b.digests[order], a.digests)
        np.testing.assert_array_equal(b.classes[order], a.classes)
        if w is not None:
            np.testing.assert_array_equal(b.weights[order], w)
        assert a.sha256 == b.sha256 and a.order_of(a) is None
        np.testing.assert_allclose(a.relative_weights(), b.relative_weights())
    assert identity(digests, 1 - classes).sha256 != identity(digests, classes).sha256


def test_files_hold_what_is_needed():
    random = np.random.default_rng(2)
    a = SampleIdentity("pixels", random.integers(0, 1000, 20), random.integers(0, 2**64, 20, dtype=np.uint64))
    b = SampleIdentity.of_words("pixels", a.words.astype(">i4"), None)
    np.testing.assert_array_equal(a.digests, b.digests)
    np.testing.assert_array_equal(a.classes, b.classes)


def test_a_whole_archive_is_read_in_no_time():
    images = torch.randint(0, 256, (50_000, 3, 32, 32), dtype=torch.uint8)
    start = time.process_time()
    assert len(np.unique(pixel_digests(images))) == 50_000
    assert time.process_time() - start < 10  # a fiftieth of that on an idle machine


def test_pixels_of_floats_are_told_without_copies_of_all_in_double_precision():
    class Largest(TorchDispatchMode):
        doubles = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor) and made.dtype == torch.float64:
                self.doubles = max(self.doubles, made.numel())
            return made

    pixels = torch.randint(0, 256, (5000, 1, 4, 4), dtype=torch.uint8)
    data = read_images((pixels / 255, torch.arange(5000) % 2))
    with Largest() as largest:
        digests = data.content.digests
    assert 0 < largest.doubles <= pixels.numel() / 4
    assert data.content.by == "pixels"
    np.testing.assert_array_equal(digests, pixel_digests(pixels))
