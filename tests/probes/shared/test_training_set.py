"""Counts and groups of a network's own training set, whatever it is probed on."""

import pickle

import numpy as np
import pytest
import torch

import sharpness
from sharpness import UserError, checkpoint_objective, load_checkpoint, load_data
from sharpness.data import cifar, read_images
from sharpness.models import build_model


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A small CIFAR-10 in the official layout: 20 random images a class, and 3 to test on."""
    folder = tmp_path_factory.mktemp("data") / "cifar-10-batches-py"
    folder.mkdir()
    random = np.random.RandomState(0)
    for name, each in [*((f"data_batch_{k}", 4) for k in range(1, 6)), ("test_batch", 3)]:
        labels = random.permutation(np.repeat(np.arange(10), each))
        pixels = random.randint(0, 256, (len(labels), 3072)).astype(np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": labels.tolist()}, 2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}, 2))
    return str(folder.parent)


@pytest.fixture
def state():
    torch.manual_seed(2)
    model = build_model("resnet8", 10)
    return {n.removeprefix("backbone.").replace("head.", "linear."): t for n, t in model.state_dict().items()}


@pytest.fixture
def akamaster(tmp_path, state):
    """A network that saw the whole of CIFAR-10."""
    torch.save({"state_dict": state, "best_prec1": 91.0}, tmp_path / "resnet8.th")
    return load_checkpoint(tmp_path / "resnet8.th")


@pytest.mark.parametrize("data", ["cifar10-lt", "cifar10"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_network_of_balanced_data_has_its_counts_on_a_long_tail(akamaster, root, data, split):
    options = {"data": data, "split": split, "data_root": root, "device": "cpu"}
    options |= {"imbalance": 4} if data == "cifar10-lt" else {}
    table = sharpness.measure(akamaster, ["accuracy"], **options).to_frame()
    assert table.train.tolist()[0] == 50_000
    assert set(table[table["class"].isin(list("abcdefghij"))].train) == {5000}
    assert not {"medium", "few"} & set(table.group.astype(str))


def test_its_images_are_those_of_the_long_tail_that_was_asked_for(akamaster, root, caplog):
    caplog.set_level("INFO", logger="sharpness")
    objective = checkpoint_objective(akamaster, data="cifar10-lt", imbalance=4, data_root=root, device="cpu")
    tail = load_data("cifar10-lt", imbalance=4, data_root=root)
    assert torch.equal(objective.y, tail.train.labels)
    assert f"data: cifar10-lt; {akamaster.path} was trained on cifar10, whose training counts" in caplog.text
    assert "assumed" not in caplog.text


def test_its_counts_on_own_images(akamaster):
    x, y = torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8), torch.arange(20) % 10
    objective = checkpoint_objective(akamaster, data=read_images((x, y)), device="cpu")
    assert objective.train_counts.tolist() == [5000] * 10
    given = checkpoint_objective(akamaster, data=read_images((x, y), train_counts=list(range(1, 11))), device="cpu")
    assert given.train_counts.tolist() == list(range(1, 11))


def test_a_network_of_a_long_tail_keeps_it_on_balanced_data(tmp_path, state, root):
    """Where the folder tells the imbalance; where it does not, nobody knows."""
    folder = tmp_path / "cifar10_resnet8_CE_None_exp_0.02_0"
    folder.mkdir()
    for place in (tmp_path, folder):
        torch.save({"state_dict": state, "best_acc1": 70.0, "arch": "resnet8"}, place / "ckpt.pth.tar")
    options = {"data": "cifar10", "data_root": root, "device": "cpu"}
    known = checkpoint_objective(load_checkpoint(folder, family="ldam"), **options)
    assert known.train_counts.tolist() == [int(5000 * 50 ** (-c / 9)) for c in range(10)]
    assert known.groups["few"] == (7, 8, 9)
    unknown = checkpoint_objective(load_checkpoint(tmp_path / "ckpt.pth.tar", family="ldam"), **options)
    assert unknown.train_counts is None and not unknown.groups


def test_ours_keep_what_is_on_record(tmp_path, root):
    tail = load_data("cifar10-lt", imbalance=4, data_root=root)
    sharpness.train("ce", tail, tmp_path / "run", epochs=1, model="resnet8")
    objective = checkpoint_objective(load_checkpoint(tmp_path / "run"), data="cifar10", data_root=root, device="cpu")
    assert objective.num_samples == 200
    assert tuple(objective.train_counts) == tail.train_counts and objective.groups == tail.groups


def test_the_whole_set_by_name(root):
    data = load_data("cifar10", data_root=root)
    read = [
        pickle.loads(path.read_bytes()) for path in sorted((cifar.Path(root) / "cifar-10-batches-py").glob("data_*"))
    ]
    assert data.train.labels.tolist() == [label for part in read for label in part["labels"]]
    assert (data.train.images.numpy().reshape(200, -1) == np.concatenate([part["data"] for part in read])).all()
    assert data.train_counts == (20,) * 10 and len(data.test) == 30
    assert load_data("cifar10", groups="10,5", data_root=root).groups["many"] == tuple(range(10))
    with pytest.raises(UserError, match="cifar10 is the whole set, balanced: leave imbalance=10, subset='seed:1' out"):
        load_data("cifar10", imbalance=10, subset="seed:1", data_root=root)


def test_a_run_on_the_whole_set_finds_its_images_again(tmp_path, root):
    data = load_data("cifar10", data_root=root)
    sharpness.train("gcl", data, tmp_path / "run", epochs=1, model="resnet8")
    checkpoint = load_checkpoint(tmp_path / "run")
    assert torch.equal(checkpoint.load_data(root).train.images, data.train.images)
    assert checkpoint_objective(checkpoint, data_root=root, device="cpu").train_counts.tolist() == [20] * 10


def test_files_that_are_not_the_official_ones_are_told_once(root, monkeypatch, caplog):
    monkeypatch.setattr(cifar, "_told", set())
    for _ in range(2):
        repr(load_data("cifar10-lt", imbalance=4, data_root=root))
    assert caplog.text.count("is not the official archive: it has 200 training images, and that has 50,000") == 1


def test_files_of_the_official_number_and_another_order_are_told(root, monkeypatch, caplog):
    from dataclasses import replace
    from hashlib import md5

    folder = cifar.Path(root) / "cifar-10-batches-py"
    layout = cifar.LAYOUTS["cifar10"]
    sums = {name: md5((folder / name).read_bytes()).hexdigest() for name in layout.md5}
    for wrong, told in ({}, 0), ({"data_batch_2": "0" * 32}, 1):
        caplog.clear()
        monkeypatch.setattr(cifar, "_told", set())
        monkeypatch.setitem(cifar.LAYOUTS, "cifar10", replace(layout, per_class=20, md5=sums | wrong))
        repr(load_data("cifar10", data_root=root))
        assert caplog.text.count("data_batch_2 differ, in their images or the order of these") == told
        assert len(caplog.records) == told
