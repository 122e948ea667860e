"""AutoAugment and Cutout against Pillow, pixel for pixel, with the definitions of the code that papers share."""

import functools

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats

from sharpness.data.augment import augment, random_crop, random_flip
from sharpness.data.autoaugment import (
    FAMILIES,
    LEVELS,
    OPERATIONS,
    POLICY,
    autoaugment_cutout,
    draw,
    perform,
    variant,
)
from sharpness.data.operations import cutout
from sharpness.errors import UserError

#: height, width: those of CIFAR, odd ones, and smaller than a filter or a square is.
SIZES = [(32, 32), (33, 29), (8, 8), (1, 1), (2, 5), (64, 47)]


#: Of which Pillow takes no magnitude, and no direction.
WITHOUT_LEVELS = ("autocontrast", "equalize", "invert")
WITHOUT_SIGN = (*WITHOUT_LEVELS, "rotate", "posterize", "solarize")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(height, width, channels=3, seed=0):
    """Noise, of full and of narrow range; gradients; one colour; two values; black. Of small ones it takes more."""
    g = generator(seed)
    of_noise = 8 if height * width < 100 else 3
    noise = torch.randint(256, (of_noise, channels, height, width), generator=g)
    narrow = torch.randint(90, 120, (4, channels, height, width), generator=g)
    ramp = (torch.arange(height)[:, None] * 3 + torch.arange(width) * 4).clamp(0, 255).expand(1, channels, -1, -1)
    flat = torch.randint(256, (2, channels, 1, 1), generator=g).expand(-1, -1, height, width)
    two = torch.randint(2, (2, channels, height, width), generator=g) * 200 + 20
    return torch.cat([noise, narrow, ramp, flat, two, torch.zeros_like(ramp)]).to(torch.uint8)


def as_pil(image):
    array = image.permute(1, 2, 0).numpy()
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2] == 1 else array))


def as_tensor(image):
    array = np.array(image)
    return torch.from_numpy(array if array.ndim == 3 else array[..., None]).permute(2, 0, 1)


def pil_operation(image, name, level, sign):
    """What the shared CIFAR10Policy does, image by image."""
    magnitude = {
        "shear_x": np.linspace(0, 0.3, 10),
        "shear_y": np.linspace(0, 0.3, 10),
        "translate_x": np.linspace(0, 150 / 331, 10),
        "translate_y": np.linspace(0, 150 / 331, 10),
        "rotate": np.linspace(0, 30, 10),
        "color": np.linspace(0, 0.9, 10),
        "posterize": np.round(np.linspace(8, 4, 10)).astype(int),
        "solarize": np.linspace(256, 0, 10),
        "contrast": np.linspace(0, 0.9, 10),
        "sharpness": np.linspace(0, 0.9, 10),
        "brightness": np.linspace(0, 0.9, 10),
    }.get(name, np.zeros(10))[level]
    grey = 128 if image.mode == "L" else (128, 128, 128)
    affine, cubic = Image.Transform.AFFINE, Image.Resampling.BICUBIC
    m = magnitude * sign
    match name:
        case "shear_x":
            return image.transform(image.size, affine, (1, m, 0, 0, 1, 0), cubic, fillcolor=grey)
        case "shear_y":
            return image.transform(image.size, affine, (1, 0, 0, m, 1, 0), cubic, fillcolor=grey)
        case "translate_x":
            return image.transform(
                image.size, affine, (1, 0, magnitude * image.size[0] * sign, 0, 1, 0), fillcolor=grey
            )
        case "translate_y":
            return image.transform(
                image.size, affine, (1, 0, 0, 0, 1, magnitude * image.size[1] * sign), fillcolor=grey
            )
        case "rotate":
            turned = image.convert("RGBA").rotate(magnitude)
            return Image.composite(turned, Image.new("RGBA", turned.size, (128,) * 4), turned).convert(image.mode)
        case "posterize":
            return ImageOps.posterize(image, int(magnitude))
        case "solarize":
            return ImageOps.solarize(image, magnitude)
        case "autocontrast" | "equalize" | "invert":
            return getattr(ImageOps, name)(image)
        case _:
            return getattr(ImageEnhance, name.capitalize())(image).enhance(1 + m)


@pytest.mark.every(4)
@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_pillows_at_every_level_and_in_both_directions(name, size, channels):
    images = pictures(*size, channels)
    family = next(f for f, names in FAMILIES.items() if name in names)

    @functools.cache
    def theirs(level, sign):
        return torch.stack([as_tensor(pil_operation(as_pil(i), name, level, sign)) for i in images])

    for level in range(LEVELS):
        for sign in (1, -1):
            ours = perform(images, family, torch.full((len(images),), variant(name, level, int(sign < 0))))
            expected = theirs(0 if name in WITHOUT_LEVELS else level, 1 if name in WITHOUT_SIGN else sign)
            assert torch.equal(ours, expected), f"level {level}, sign {sign}"


def reference(images, draws):
    """The policy with Pillow, one image after another, then Cutout of half the side."""
    found = []
    height, width = images.shape[2:]
    for i, image in enumerate(images):
        picture = as_pil(image)
        for variants, applied in zip(draws.variants[:, i].tolist(), draws.applied[:, i].tolist(), strict=True):
            if applied:
                operation, rest = divmod(variants, 2 * LEVELS)
                picture = pil_operation(picture, OPERATIONS[operation], rest // 2, 1 - 2 * (rest % 2))
        array = np.array(picture)
        half, (row, column) = min(height, width) // 4, draws.centres[:, i].tolist()
        y1, y2 = np.clip([row - half, row + half], 0, height)
        x1, x2 = np.clip([column - half, column + half], 0, width)
        array[y1:y2, x1:x2] = 0
        found.append(as_tensor(array))
    return torch.stack(found)


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_policy_is_pillows_with_the_same_draws(size, channels):
    images = torch.cat([pictures(*size, channels, seed) for seed in range(20)])
    before = images.clone()
    ours = autoaugment_cutout(images, generator(5))
    assert torch.equal(ours, reference(images, draw(len(images), *size, generator(5))))
    assert torch.equal(images, before)


def test_one_image_and_none():
    for n in (1, 0):
        images = pictures(32, 32)[:n]
        assert autoaugment_cutout(images, generator()).shape == images.shape


def test_the_square_covers_sixteen_pixels_of_cifars_side_and_is_cut_at_the_border():
    white = torch.full((3, 3, 32, 32), 255, dtype=torch.uint8)
    cut = cutout(white, torch.tensor([16, 0, 31]), torch.tensor([16, 0, 3]), 16)
    assert (cut == 0)[:, 0].flatten(1).sum(1).tolist() == [256, 64, 9 * 11]
    assert (cut[0, :, 8:24, 8:24] == 0).all()


def test_the_augmentation_is_crop_flip_policy_and_cutout_in_this_order():
    images = pictures(32, 32)
    draws = generator(4)
    moved = random_flip(random_crop(images, 4, draws), draws)
    assert torch.equal(augment(images, "autoaugment-cutout", 4, generator(4)), autoaugment_cutout(moved, draws))


def test_sub_policies_directions_and_centres_are_uniform_and_operations_have_their_chances():
    n = 20_000
    found = draw(n, 32, 24, generator())
    operations, levels, directions = found.variants // 20, found.variants % 20 // 2, found.variants % 2
    pairs = [[[OPERATIONS.index(name), level] for _, name, level in sub] for sub in POLICY]
    drawn = torch.stack([operations, levels], 2).permute(1, 0, 2).tolist()
    chosen = np.array([pairs.index(pair) for pair in drawn])
    assert stats.chisquare(np.bincount(chosen, minlength=25)).pvalue > 1e-3
    for k, sub in enumerate(POLICY):
        for position, (probability, _, _) in enumerate(sub):
            applied = found.applied[position][torch.from_numpy(chosen == k)]
            if probability == 0:
                assert not applied.any()
            else:
                assert stats.binomtest(int(applied.sum()), len(applied), probability).pvalue > 1e-4
    for position in range(2):
        assert stats.binomtest(int(directions[position].sum()), n).pvalue > 1e-3
    for centre, size in zip(found.centres, (32, 24), strict=True):
        assert stats.chisquare(torch.bincount(centre, minlength=size).numpy()).pvalue > 1e-3


def test_images_that_are_neither_grey_nor_colour_are_refused():
    with pytest.raises(UserError, match="4 channels"):
        augment(torch.zeros(2, 4, 8, 8, dtype=torch.uint8), "autoaugment-cutout", 1, generator())
