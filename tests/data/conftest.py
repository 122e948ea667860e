"""Tiny files in CIFAR's layout, and the real ones where the machine has them."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

REAL_ROOT = os.environ.get("SHARPNESS_DATA")
FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}


def dump(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))


def write_cifar(root, name, counts, test_per_class=1, key=str.encode):
    """Write ``counts[c]`` random training images of class c, shuffled; returns their rows and labels."""
    random = np.random.RandomState(7)
    labels = random.permutation(np.repeat(np.arange(len(counts)), counts))
    rows = random.randint(0, 256, (len(labels), 3072)).astype(np.uint8)
    test_labels = np.repeat(np.arange(len(counts)), test_per_class)
    test_rows = random.randint(0, 256, (len(test_labels), 3072)).astype(np.uint8)
    folder = root / FOLDERS[name]
    names = [f"class{c}".encode() for c in range(len(counts))]
    if name == "cifar10":
        for k, part in enumerate(np.array_split(np.arange(len(labels)), 5), 1):
            dump(folder / f"data_batch_{k}", {key("labels"): labels[part].tolist(), key("data"): rows[part]})
        dump(folder / "test_batch", {key("labels"): test_labels.tolist(), key("data"): test_rows})
        dump(folder / "batches.meta", {key("label_names"): names})
    else:
        dump(folder / "train", {key("fine_labels"): labels.tolist(), key("data"): rows})
        dump(folder / "test", {key("fine_labels"): test_labels.tolist(), key("data"): test_rows})
        dump(folder / "meta", {key("fine_label_names"): names})
    return rows, labels


@pytest.fixture
def cifar10(tmp_path):
    """A root with 10 classes of 20 images, and their rows and labels."""
    rows, labels = write_cifar(tmp_path, "cifar10", [20] * 10)
    return tmp_path, rows, labels


@pytest.fixture
def write():
    return write_cifar


@pytest.fixture
def dump_pickle():
    return dump


@pytest.fixture
def no_data_root(monkeypatch, tmp_path):
    """Neither the variable nor a filled cache."""
    monkeypatch.delenv("SHARPNESS_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def real_root():
    """The folder named by $SHARPNESS_DATA."""
    if not REAL_ROOT or not Path(REAL_ROOT).is_dir():
        pytest.skip("SHARPNESS_DATA names no folder")
    return Path(REAL_ROOT)
