"""Image files: closed formats, bounded memory, and the same pixels as Pillow's own two steps."""

import os
import shutil
import stat

import numpy as np
import pytest
import torch
from PIL import Image

from sharpness.data.pictures import FORMATS, read_picture
from sharpness.errors import UserError

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def told(path, size=8, channels=3):
    with pytest.raises(UserError) as caught:
        read_picture(path, size, None, channels)
    line = str(caught.value)
    assert line.startswith(str(path)) and line.isprintable() and len(line) < len(str(path)) + 200
    return line


def test_postscript_under_the_name_of_an_image_starts_no_program(tmp_path, monkeypatch):
    canary, program = tmp_path / "canary", tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch '{canary}'\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    (tmp_path / "x.png").write_bytes(POSTSCRIPT)
    assert shutil.which("gs") == str(program)
    assert "is damaged or no image" in told(tmp_path / "x.png")
    assert not canary.exists()
    with pytest.raises(Exception, match=r".*"), Image.open(tmp_path / "x.png") as image:
        image.load()
    assert canary.exists(), "Pillow starts nothing here, so this test shows nothing"


@pytest.mark.parametrize("form", ["PCX", "ICO", "TGA", "EPS", "PDF"])
def test_other_formats_are_refused_whatever_they_are_called(tmp_path, form):
    Image.fromarray(noise(9, 9, 3)).save(tmp_path / "x.png", form)
    assert "no image (PNG, JPEG," in told(tmp_path / "x.png")


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (33, 33), (8, 8), (20, 300)])
def test_ordinary_images_are_resized_and_cropped_as_in_two_steps(tmp_path, size):
    image = Image.fromarray(noise(size[1], size[0], 3))
    image.save(tmp_path / "x.png")
    short = min(size)
    scaled = image.resize((10 * size[0] // short, 10 * size[1] // short), Image.Resampling.BILINEAR)
    left, top = (round((n - 8) / 2) for n in scaled.size)
    expected = np.array(scaled.crop((left, top, left + 8, top + 8)))
    found, _ = read_picture(tmp_path / "x.png", 8, 10, 3)
    assert np.array_equal(found.permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("size", [(9, 900), (900, 9), (1, 700)])
def test_narrow_images_have_the_part_that_two_steps_would_keep(tmp_path, size):
    image = Image.fromarray(noise(size[1], size[0]))
    image.save(tmp_path / "x.png")
    short = min(size)
    scaled = image.resize((10 * size[0] // short, 10 * size[1] // short), Image.Resampling.BILINEAR)
    left, top = (round((n - 8) / 2) for n in scaled.size)
    expected = np.array(scaled.crop((left, top, left + 8, top + 8))).astype(int)
    found, _ = read_picture(tmp_path / "x.png", 8, 10, 1)
    assert np.abs(found[0].numpy().astype(int) - expected).max() <= 1, "rounding of positions"


COLOURS = ((255, 0, 0), (0, 128, 255))


@pytest.mark.parametrize(
    ("form", "mode"),
    [("PNG", "P"), ("PNG", "RGBA"), ("GIF", "P"), ("TIFF", "RGB"), ("TIFF", "CMYK"), ("BMP", "RGB"), ("PPM", "RGB"),
     ("WEBP", "RGB")],
)  # fmt: skip
def test_modes_and_formats_keep_their_colours(tmp_path, form, mode):
    """The first of several pictures counts, and transparency does not."""
    first, second = (Image.new("RGB", (6, 6), colour).convert(mode) for colour in COLOURS)
    more = {"save_all": True, "append_images": [second]} if form in ("GIF", "TIFF") else {}
    more |= {"lossless": True} if form == "WEBP" else {}
    first.save(tmp_path / "x.png", form, **more)
    found, _ = read_picture(tmp_path / "x.png", None, None, 3)
    assert form in FORMATS and found.shape == (3, 6, 6)
    assert torch.equal(found, torch.tensor(COLOURS[0], dtype=torch.uint8)[:, None, None].expand(3, 6, 6))


@pytest.mark.parametrize("form", ["PNG", "PPM", "TIFF"])
def test_16_bits_are_scaled(tmp_path, form):
    levels = np.array([[0, 128, 129], [257, 32768, 65535]], np.uint16)
    Image.fromarray(levels).save(tmp_path / "x.png", form)
    found, _ = read_picture(tmp_path / "x.png", None, None, 1)
    assert np.array_equal(found[0].numpy(), np.rint(levels / 257))


def test_grey_with_transparency(tmp_path):
    Image.fromarray(noise(5, 5)).convert("LA").save(tmp_path / "x.png")
    found, _ = read_picture(tmp_path / "x.png", None, None, 1)
    assert np.array_equal(found[0].numpy(), noise(5, 5))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP"])
def test_truncated_images_are_told(tmp_path, form, share):
    Image.fromarray(noise(40, 40, 3)).save(tmp_path / "x.png", form)
    content = (tmp_path / "x.png").read_bytes()
    (tmp_path / "x.png").write_bytes(content[: int(share * len(content))])
    assert "is damaged or no image" in told(tmp_path / "x.png")


def test_an_image_of_too_many_pixels_is_told_before_it_is_decoded(tmp_path):
    Image.new("RGB", (8000, 8000)).save(tmp_path / "y.png")
    assert "64,000,000 pixels of mode 'RGB' are more than" in told(tmp_path / "y.png")


def test_what_is_no_file_is_told(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    assert "is no regular file" in told(tmp_path / "pipe.png")
    assert "is a folder" in told(tmp_path / "folder.png")
    assert "is no regular file" in told(tmp_path / "zero.png")
