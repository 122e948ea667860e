"""Random crops of large-scale training against those of torchvision 0.29.1 (fixtures/make_resized_crops.py)."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator

from sharpness.data.augment import augment_batches
from sharpness.data.pictures import read_picture
from sharpness.data.resized_crop import augmented_picture
from sharpness.data.rows import ArraySource, Rows

FIXTURES = Path(__file__).parent / "fixtures"
sys.path.insert(0, str(FIXTURES))
from make_resized_crops import SIZE, picture  # noqa: E402


@pytest.fixture(scope="module")
def expected():
    return np.load(FIXTURES / "resized_crops.npz")


@pytest.mark.parametrize("kind", ["resized-crop-jitter", "resized-crop"])
def test_every_pixel_is_torchvisions(kind, expected):
    for i in range(100):
        generator = Generator().manual_seed(1000 + i)
        made = augmented_picture(picture(i), SIZE, kind.endswith("jitter"), generator)
        np.testing.assert_array_equal(np.asarray(made), expected[kind][i], err_msg=f"picture {i}")


def test_test_images_are_torchvisions(expected, tmp_path):
    """Resize to the shorter side, rounded down on the longer one, and the central crop; also of long thin pictures."""
    for i in range(100):
        picture(i).save(tmp_path / "x.png")
        image, _ = read_picture(tmp_path / "x.png", SIZE, 14, 3)
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected["test"][i], err_msg=f"picture {i}")


def crops(images, batches, seed=3):
    return list(augment_batches(images, [torch.tensor(b) for b in batches], "resized-crop-jitter", 4, seeded(seed)))


def seeded(seed):
    return Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def images():
    return torch.stack([torch.from_numpy(np.array(picture(2).resize((16, 16)))).permute(2, 0, 1)] * 6)


def test_batches_and_workers_change_no_crop(images):
    """The same picture six times: equal crops would show that they share random numbers."""
    alone = torch.cat(crops(images, [[0], [1], [2], [3], [4], [5]]))
    assert torch.equal(torch.cat(crops(images, [[0, 1, 2, 3], [4, 5]])), alone)
    rows = Rows.of(ArraySource(images, torch.zeros(6, dtype=torch.int64)))
    rows.source.workers = 2
    assert torch.equal(torch.cat(crops(rows, [[0, 1, 2, 3], [4, 5]])), alone)
    assert len({bytes(a.numpy().tobytes()) for a in alone}) == 6


def test_an_image_that_is_drawn_again_is_cropped_anew(images):
    first, again = torch.cat(crops(images, [[3], [3]]))
    assert not torch.equal(first, again)
    assert torch.equal(first, crops(images, [[3]])[0][0])
    assert not torch.equal(first, crops(images, [[3]], seed=4)[0][0])


def test_workers_leave_the_global_generator_alone(images):
    before = torch.random.get_rng_state()
    crops(images, [[0, 1]])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_grey_pictures_keep_one_channel():
    grey = Image.fromarray(np.arange(400, dtype=np.uint8).reshape(20, 20))
    assert augmented_picture(grey, 8, True, seeded(0)).mode == "L"
