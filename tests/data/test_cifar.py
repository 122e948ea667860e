"""CIFAR's files, tiny and invented; the real ones where $SHARPNESS_DATA names them."""

import os
import pickle

import numpy as np
import pytest
import torch

from sharpness.checkpoints import load_checkpoint
from sharpness.data import cifar
from sharpness.data.cifar import load_cifar_lt
from sharpness.data.longtail import select_indices
from sharpness.data.named_data import NamedData
from sharpness.data.profiles import profile_counts
from sharpness.errors import UserError

pytestmark = pytest.mark.usefixtures("no_data_root")


class Mkdir:
    """Unpickled by an ordinary reader, it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def load(root, **options):
    """A long tail, all files of which have been read."""
    data = load_cifar_lt("cifar10", root, **{"imbalance": 5, **options})
    repr(data)
    return data


def test_a_split_is_read_when_it_is_asked_for(cifar10, monkeypatch):
    root, read, reader = cifar10[0], [], cifar.read_pickle
    monkeypatch.setattr(cifar, "read_pickle", lambda path, remedy: read.append(path.name) or reader(path, remedy))
    data = load_cifar_lt("cifar10", root, imbalance=5)
    assert read == []
    assert len(data.test) == 10 and read == ["test_batch"]
    training = [*(f"data_batch_{k}" for k in range(1, 6)), "batches.meta"]
    assert len(data.train) == data.longtail.total and read[1:] == training
    read.clear()
    grey = NamedData(mean=(0.5,) * 3, std=(0.25,) * 3).standardized(load_cifar_lt("cifar10", root, imbalance=5))
    assert read == [] and grey.test.mean == (0.5,) * 3 and read == ["test_batch"]
    assert grey.train.std == (0.25,) * 3 and (grey.train.images == data.train.images).all()
    read.clear()
    recorded = load_checkpoint("zoo:ce")
    tested = recorded.load_data(str(root), split="test")
    assert (tested.test.images == data.test.images).all() and tested.train_counts == recorded.longtail.train_counts
    assert read == ["test_batch"]
    assert len(pickle.loads(pickle.dumps(load_cifar_lt("cifar10", root, imbalance=5))).train) == len(data.train)


@pytest.mark.parametrize("subset", ["ldam_seed0", "first_n", "seed:3"])
@pytest.mark.parametrize("profile", ["exp", "step", "exp_m2m"])
def test_images_and_labels_are_those_of_the_files(cifar10, subset, profile):
    root, rows, labels = cifar10
    data = load(root, profile=profile, subset=subset)
    counts = profile_counts(profile, 5, 10, 20)
    kept = select_indices(labels, counts, subset)
    assert data.train_counts == counts
    assert data.train.labels.tolist() == labels[kept].tolist()
    assert (data.train.images.numpy().reshape(-1, 3072) == rows[kept]).all()


def test_the_description_is_that_of_the_data_set(cifar10):
    data = load(cifar10[0])
    assert (data.augmentation, data.padding, data.default_model) == ("crop-flip", 4, "resnet32")
    assert data.longtail.dataset == "cifar10-lt"
    assert data.class_names == tuple(f"class{c}" for c in range(10))
    assert [len(members) for members in data.groups.values()] == [3, 4, 3]
    assert data.train.mean == (0.4914, 0.4822, 0.4465)
    assert data.train.std == (0.2023, 0.1994, 0.2010)
    assert len(data.test) == 10


def test_cifar100_uses_its_own_files_and_groups(tmp_path, write):
    rows, labels = write(tmp_path, "cifar100", [30] * 100)
    data = load_cifar_lt("cifar100", tmp_path, imbalance=10)
    assert data.train_counts == profile_counts("exp", 10, 100, 30)
    assert data.longtail.group_convention == "oltr"
    kept = select_indices(labels, data.train_counts, "ldam_seed0")
    assert (data.train.images.numpy().reshape(-1, 3072) == rows[kept]).all()


def test_text_keys_are_read_like_byte_keys(tmp_path, write):
    write(tmp_path, "cifar10", [20] * 10, key=str)
    assert load(tmp_path).num_classes == 10


def test_pixels_are_planes_of_rows(tmp_path, write, dump_pickle):
    write(tmp_path, "cifar10", [1] * 10)
    row = (np.arange(3072) % 251).astype(np.uint8)
    dump_pickle(tmp_path / "cifar-10-batches-py" / "test_batch", {b"labels": [4], b"data": row[None]})
    image = load(tmp_path, imbalance=1).test.images[0]
    assert int(image[1, 2, 3]) == (1024 + 2 * 32 + 3) % 251


def test_n_max_is_the_largest_class_of_the_files(tmp_path, write):
    present = profile_counts("exp", 10, 10, 40)
    write(tmp_path, "cifar10", present)
    assert load(tmp_path, imbalance=10).train_counts == present
    with pytest.raises(UserError, match=r"class 'class1' is asked for 32 .* has 30: .* files allow is (9|10)"):
        load(tmp_path, imbalance=7)


def test_an_imbalance_that_empties_a_class_is_refused(cifar10):
    with pytest.raises(UserError, match="'class9' keeps 0 images .* one is 20"):
        load(cifar10[0], imbalance=100)


def test_the_root_comes_from_the_variable(cifar10, monkeypatch):
    monkeypatch.setenv("SHARPNESS_DATA", str(cifar10[0]))
    assert load(None).num_classes == 10
    with pytest.raises(UserError, match="elsewhere"):
        load(cifar10[0] / "elsewhere")


def test_the_root_comes_from_the_cache_of_downloads(tmp_path, write, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    write(tmp_path / "sharpness", "cifar10", [20] * 10)
    assert load(None).num_classes == 10


def test_without_a_root_all_remedies_are_named():
    with pytest.raises(UserError, match="--data-root, set SHARPNESS_DATA .* --download"):
        load(None)


def test_an_empty_root_names_the_folder_and_the_remedy(tmp_path):
    with pytest.raises(UserError, match="cifar-10-batches-py is missing: pass --data-root .* --download"):
        load(tmp_path)


def test_download_is_asked_only_for_missing_files(cifar10, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(cifar, "download", lambda name, root: asked.append((name, root)) or root / "fetched")
    load(cifar10[0], download=True)
    assert asked == []
    (cifar10[0] / "cifar-10-batches-py" / "data_batch_3").unlink()
    with pytest.raises(UserError):
        load(cifar10[0], download=True)
    assert asked == [("cifar10", cifar10[0])]
    with pytest.raises(UserError):
        load(None, download=True)
    assert asked[1] == ("cifar10", tmp_path / "cache" / "sharpness")


@pytest.mark.parametrize("file", ["data_batch_2", "test_batch", "batches.meta"])
def test_a_hostile_file_is_refused_and_does_not_run(cifar10, dump_pickle, file):
    root = cifar10[0]
    mark = root / "mark"
    path = root / "cifar-10-batches-py" / file
    dump_pickle(path, {b"data": Mkdir(mark), b"labels": [0]})
    with pytest.raises(UserError, match=rf"{file} names .*mkdir.*unpack https"):
        load(root)
    assert not mark.exists()
    pickle.loads(path.read_bytes())
    assert mark.exists()


@pytest.mark.parametrize("file", ["data_batch_2", "test_batch", "batches.meta"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "page"])
def test_a_damaged_file_is_named_with_the_remedy(cifar10, file, damage):
    path = cifar10[0] / "cifar-10-batches-py" / file
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "page":
        path.write_bytes(b"<html></html>")
    with pytest.raises(UserError, match=rf"{file} is .*: unpack https.*cifar-10-python.tar.gz") as caught:
        load(cifar10[0])
    assert "\n" not in str(caught.value)


ROWS = np.zeros((2, 3072), dtype=np.uint8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "a dictionary, not list"),
        ({b"labels": [0, 1]}, r"uint8 \(n, 3072\), not NoneType"),
        ({b"labels": [0, 1], b"data": ROWS.astype(np.float32)}, r"not float32 \(2, 3072\)"),
        ({b"labels": [0, 1], b"data": ROWS[:, :3000]}, r"not uint8 \(2, 3000\)"),
        ({b"labels": [0, 1], b"data": ROWS.reshape(2, 3, 1024)}, r"not uint8 \(2, 3, 1024\)"),
        ({b"labels": [0], b"data": ROWS}, "2 integers as 'labels'"),
        ({b"labels": [0, 1.5], b"data": ROWS}, "2 integers as 'labels'"),
        ({b"fine_labels": [0, 1], b"data": ROWS}, "2 integers as 'labels'"),
        ({b"labels": [0, 10], b"data": ROWS}, r"label 10 at index 1, outside 0\.\.9"),
        ({b"labels": [-1, 0], b"data": ROWS}, r"label -1 at index 0, outside 0\.\.9"),
    ],
)
def test_a_file_of_another_shape_is_named(cifar10, dump_pickle, content, message):
    dump_pickle(cifar10[0] / "cifar-10-batches-py" / "data_batch_4", content)
    with pytest.raises(UserError, match=f"data_batch_4 .*{message}"):
        load(cifar10[0])


def test_wrong_names_are_refused(cifar10, dump_pickle):
    dump_pickle(cifar10[0] / "cifar-10-batches-py" / "batches.meta", {b"label_names": [b"cat"]})
    with pytest.raises(UserError, match="batches.meta should hold 10 names"):
        load(cifar10[0])


@pytest.mark.parametrize("wrong", [{"profile": "x"}, {"subset": "x"}, {"groups": "x"}, {"imbalance": 0}])
def test_a_wrong_choice_is_told_before_files_are_looked_for(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))[:5]):
        load(None, **wrong)


def test_an_unknown_data_set_lists_the_choices():
    with pytest.raises(UserError, match="cifar10, cifar100"):
        load_cifar_lt("cifar20")


@pytest.mark.parametrize(("name", "total", "tail"), [("cifar10", 12406, 50), ("cifar100", 10847, 5)])
def test_the_real_files_hold_the_published_tail(real_root, name, total, tail):
    data = load_cifar_lt(name, real_root)
    num_classes = data.num_classes
    assert (data.longtail.total, data.train_counts[-1]) == (total, tail)
    assert data.test.class_samples(num_classes).tolist() == [10000 // num_classes] * num_classes
    assert data.class_names[:2] == {"cifar10": ("airplane", "automobile"), "cifar100": ("apple", "aquarium_fish")}[name]
    x = data.test.normalize(data.test.images[:1000])
    assert torch.allclose(x.mean((0, 2, 3)), torch.zeros(3), atol=0.2)
    rough = (data.test.images[:200].float().diff(dim=-1)).abs().mean()
    assert float(rough) < 30, "neighbouring pixels of a photograph are alike"
