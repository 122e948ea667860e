"""Small files stay small, and only regular files are opened."""

import gzip
import json
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from sharpness.data import read_images
from sharpness.data.unpickle import read_pickle
from sharpness.errors import UserError
from sharpness.untrusted.npz import read_arrays


def told(source, **options):
    with pytest.raises(UserError) as caught:
        read_images(source, **options)
    line = str(caught.value)
    assert line.isprintable() and len(line) < 300 + len(str(source))
    return line


@pytest.fixture
def images(tmp_path):
    Image.new("RGB", (4, 4), (1, 2, 3)).save(tmp_path / "x.png")
    Image.new("RGB", (4, 4), (5, 7, 9)).save(tmp_path / "y.png")
    return tmp_path


def test_a_compressed_list_is_read_and_may_not_unfold_without_end(images):
    path = images / "list.txt.gz"
    path.write_bytes(gzip.compress(b"x.png 0\r\ny.png 1"))
    assert read_images(path).labels.tolist() == [0, 1]
    path.write_bytes(gzip.compress((b"x.png 0" + b" " * 90 + b"\n") * 10**6))
    assert "unfolds into far more than it holds" in told(path)
    path.write_bytes(gzip.compress(b"a" * 10**6))
    assert "has a line of more than" in told(path)


@pytest.mark.parametrize(
    "make", [os.mkfifo, os.mkdir, lambda p: os.symlink("/dev/zero", p)], ids=["pipe", "folder", "device"]
)
def test_what_is_no_file_is_told_at_once(images, make):
    make(images / "odd")
    (images / "list.txt").write_text("x.png 0\nodd 1\n")
    assert "odd is " in told(images / "list.txt")
    make(images / "counts.json")
    assert "counts.json: it is " in told(
        (torch.ones(1, 2), torch.zeros(1, dtype=int)), train_counts=images / "counts.json"
    )
    make(images / "batch")
    with pytest.raises(UserError, match=r"batch is .*: again"):
        read_pickle(images / "batch", "again")
    if make is not os.mkdir:
        make(images / "pipe.txt")
        assert "it is no regular file" in told(images / "pipe.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 10**5, "nested too deeply"),
        ('{"a":' * 200 + "1" + "}" * 200, "levels deep"),
        ("[" + "9" * 400 + "]", "an integer of 400 digits"),
        ("[1, 2", "it is no JSON"),
        ("[NaN]", "class counts must be a list of integers"),
        ("[1e400]", "class counts must be a list of integers"),
    ],
)
def test_odd_json_is_told(tmp_path, text, message):
    (tmp_path / "counts.json").write_text(text)
    assert message in told((torch.ones(1, 2), torch.zeros(1, dtype=int)), train_counts=tmp_path / "counts.json")


def everything(names):
    return names


def test_arrays_are_read_as_numpy_reads_them(tmp_path):
    arrays = {
        "a": np.arange(6).reshape(2, 3), "b": np.asfortranarray(np.eye(3)[:2]), "c": np.arange(3, dtype=">i4"),
        "d": np.zeros((0, 2)), "e": np.float32(2.5), "f": np.array([True, False]),
    }  # fmt: skip
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        for found, expected in zip(read_arrays(tmp_path / "a.npz", everything), arrays.values(), strict=True):
            assert np.array_equal(found, expected) and found.shape == np.shape(expected)
            assert found.flags.writeable and found.dtype.isnative


def npy(shape, descr="<f4", held=16):
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(100).encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + bytes(held)


BOMBS = {
    "zeros": (lambda: npy("(100000000,)", held=4 * 10**8), "unfolds into 4"),
    "a shape of more than it holds": (lambda: npy("(10000000000,)"), "another shape than it has numbers for"),
    "seventy dimensions": (lambda: npy("(" + "1," * 70 + ")"), "other things than arrays of numbers"),
    "strings": (lambda: npy("(4,)", "<U1"), "other things than arrays of numbers"),
    "objects": (lambda: npy("(2,)", "|O"), "other things than arrays of numbers"),
    "complex numbers": (lambda: npy("(2,)", "<c8"), "other things than arrays of numbers"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_arrays_that_claim_more_than_they_hold_are_told(tmp_path, name):
    content, message = BOMBS[name]
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x.npy", content())
        file.writestr("y.npy", npy("(4,)"))
    assert (tmp_path / "a.npz").stat().st_size < 10**6
    assert message in told(tmp_path / "a.npz")


def test_a_changed_number_is_told(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((2, 100)), y=np.arange(2))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[500] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    assert "not what its checksum says" in told(tmp_path / "a.npz")


def doubled(levels=60):
    steps = (b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(levels - 1))
    return b"\x80\x02K\x01q\0" + b"".join(steps)


def strided():
    """An array whose strides of zero would make a gigabyte of a few bytes, if anybody called what it names."""
    base = pickle.dumps(np.lib.stride_tricks.as_strided(np.zeros(1), (2, 2), (0, 0)), 2)
    return base.replace(b"K\x02K\x02\x86", b"J\0\0\0\x7fJ\0\0\0\x7f\x86")


MEGABYTE = b"X" + struct.pack("<I", 10**6) + b"a" * 10**6
PICKLES = {
    "memo index": b"\x80\x02K\x01r\xff\xff\xff\x3f.",
    "values without end": doubled() + b".",
    "keys without end": b"\x80\x02}" + doubled()[2:] + b"K\x01s.",
    "a name without end": b"\x80\x02cnumpy\ndtype\n" + doubled()[2:] + b"\x85R.",
    "a codec without end": b"\x80\x02c_codecs\nencode\nX\1\0\0\0a" + doubled()[2:] + b"\x86R.",
    "a shape beyond its bytes": strided(),
    "bytes again and again": b"\x80\x02c_codecs\nencode\nq\0" + MEGABYTE + b"q\1](" + b"h\0h\1\x85R" * 10**4 + b"e.",
    "lists without end": b"\x80\x02" + b"]" * 2**21 + b".",
    "a number of a megabyte": b"\x80\x02\x8b" + struct.pack("<I", 2**20) + b"\x7f" * 2**20 + b".",
    "a frame of an exabyte": b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b".",
}  # fmt: skip


@pytest.mark.parametrize("name", PICKLES)
def test_a_small_pickle_stays_small(tmp_path, name):
    """The first one is read, in no more memory than it has bytes; the others are refused."""
    (tmp_path / "batch").write_bytes(PICKLES[name])
    if name == "memo index":
        assert read_pickle(tmp_path / "batch", "again") == 1
        return
    with pytest.raises(UserError) as caught:
        read_pickle(tmp_path / "batch", "again")
    assert str(caught.value).endswith(": again") and len(str(caught.value)) < 300


def test_counts_are_read_as_before(tmp_path):
    (tmp_path / "counts.json").write_text(json.dumps([500, 30]))
    data = read_images((torch.rand(2, 3), torch.tensor([0, 1])), train_counts=tmp_path / "counts.json")
    assert data.train_counts == (500, 30)
