"""A foreign checkpoint on data: given, or named and prepared as its family prepares them."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

import sharpness
from sharpness import UserError, checkpoint_objective, load_checkpoint
from sharpness.data import read_images
from sharpness.models import build_model


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """A small CIFAR-10 in the official layout: 20 random images a class, and 3 to test on."""
    root = tmp_path_factory.mktemp("data")
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    random = np.random.RandomState(0)
    for name, each in [*((f"data_batch_{k}", 4) for k in range(1, 6)), ("test_batch", 3)]:
        labels = sorted(list(range(10)) * each)
        pixels = random.randint(0, 256, (len(labels), 3072)).astype(np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": labels}, 2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}, 2))
    return root


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(2)
    model = build_model("resnet8", 10)
    model(torch.rand(20, 3, 16, 16))
    return {n.removeprefix("backbone.").replace("head.", "linear."): t for n, t in model.state_dict().items()}


@pytest.fixture
def ldam(tmp_path, state):
    torch.save({"state_dict": state, "best_acc1": 70.0, "arch": "resnet8", "epoch": 2}, tmp_path / "ckpt.pth.tar")
    return load_checkpoint(tmp_path / "ckpt.pth.tar", family="ldam")


def test_given_data_are_taken_as_they_are(ldam):
    x, y = torch.rand(6, 3, 16, 16), torch.tensor([0, 0, 1, 5, 9, 9])
    objective = checkpoint_objective(ldam, data=(x, y), device="cpu")
    expected = torch.nn.functional.cross_entropy(ldam.model(x), y)
    assert objective.loss() == pytest.approx(expected.item(), rel=1e-5)
    assert sharpness.random_perturbation(ldam, data=(x, y), radii=[0.01], draws=1) is not None
    with pytest.raises(UserError, match="split"):
        checkpoint_objective(ldam, split="test", data=(x, y))


def test_named_data_are_cut_and_normalised_as_the_family_does(ldam, cifar):
    objective = checkpoint_objective(ldam, data="cifar10-lt", imbalance=4, data_root=str(cifar), device="cpu")
    data = sharpness.load_data("cifar10-lt", imbalance=4, data_root=str(cifar), subset="ldam_seed0")
    assert torch.equal(objective.y, data.train.labels)
    assert torch.equal(objective.x, data.train.tensors[0])
    assert objective.groups == data.groups


def test_m2m_takes_the_first_images(tmp_path, state, cifar):
    names = {"conv1.": "conv_a.", "bn1.": "bn_a.", "conv2.": "conv_b.", "bn2.": "bn_b."}
    theirs = {}
    for name, tensor in state.items():
        if name.startswith("layer"):
            for old, new in names.items():
                name = name.replace(old, new)
        else:
            name = name.replace("conv1.", "conv_1_3x3.").replace("bn1.", "bn_1.")
        theirs[name.replace("layer", "stage_")] = tensor
    torch.save({"net": theirs, "rng_state": torch.ByteTensor(3), "acc": 50.0}, tmp_path / "ckpt_1.t7")
    checkpoint = load_checkpoint(tmp_path / "ckpt_1.t7")
    objective = checkpoint_objective(checkpoint, data="cifar10-lt", imbalance=4, data_root=str(cifar), device="cpu")
    data = sharpness.load_data("cifar10-lt", imbalance=4, data_root=str(cifar), subset="first_n", profile="exp_m2m")
    assert torch.equal(objective.x, data.train.tensors[0])


def test_the_table_counts_the_training_images_of_named_data(ldam, cifar):
    options = {"imbalance": 4, "data_root": str(cifar), "device": "cpu"}
    table = sharpness.measure(ldam, ["loss"], data="cifar10-lt", **options)
    data = sharpness.load_data("cifar10-lt", imbalance=4, data_root=str(cifar))
    assert table.train_counts.tolist() == list(data.train_counts)
    x, y = torch.rand(10, 3, 16, 16), torch.arange(10)
    assert set(sharpness.measure(ldam, ["loss"], data=(x, y), device="cpu").train_counts.tolist()) == {-1}
    counts = list(range(10, 0, -1))
    given = sharpness.measure(ldam, ["loss"], data=(x, y), train_counts=counts, device="cpu")
    assert given.train_counts.tolist() == counts


def test_the_name_of_the_data_may_follow_the_checkpoint_and_classes_be_others(ldam, cifar):
    options = {"imbalance": 4, "data_root": str(cifar), "device": "cpu"}
    plain = sharpness.measure(ldam, data="cifar10-lt", measures="loss", **options)
    assert sharpness.measure(ldam, "cifar10-lt", "loss", **options).to_frame().equals(plain.to_frame())
    odd = checkpoint_objective(ldam, data="cifar10-lt", group_by=lambda x, y: y % 2, **options)
    assert odd.class_names == ("0", "1")
    assert odd.groups == {}
    assert odd.train_counts is None
    losses = [np.average(plain.values[0][c::2], weights=plain.class_weights[c::2]) for c in (0, 1)]
    np.testing.assert_allclose(odd.class_losses(), losses, rtol=1e-6)
    own = checkpoint_objective(ldam, data="cifar10-lt", groups={"first": (0,)}, **options)
    assert own.groups == {"first": (0,)}


def test_a_checkpoint_takes_a_loss_and_targets_of_ones_own(ldam):
    x, y = torch.rand(6, 3, 16, 16), torch.rand(6, 10)
    found = sharpness.measure(ldam, (x, y), "loss", loss=lambda u, t: ((u - t) ** 2).mean(1), device="cpu")
    assert found.overall[0] == pytest.approx(((ldam.model(x) - y) ** 2).mean().item(), rel=1e-5)


def test_constants_of_named_data_can_be_corrected(ldam, cifar):
    options = {"data": "cifar10-lt", "imbalance": 4, "data_root": str(cifar), "device": "cpu"}
    objective = checkpoint_objective(ldam, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), **options)
    data = sharpness.load_data("cifar10-lt", imbalance=4, data_root=str(cifar), subset="ldam_seed0")
    std = torch.tensor([0.5, 0.6, 0.7])[:, None, None]
    expected = (data.train.images / 255 - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / std
    torch.testing.assert_close(objective.x, expected)
    with pytest.raises(UserError, match="give mean and std together"):
        checkpoint_objective(ldam, mean=(0.1, 0.2, 0.3), **options)
    with pytest.raises(UserError, match="give 3 values each"):
        checkpoint_objective(ldam, mean=(0.1,), std=(0.5,), **options)


def test_files_that_are_missing_can_be_fetched(ldam, cifar, tmp_path, monkeypatch):
    fetched = []

    def fetch(name, root):
        fetched.append((name, root))
        return cifar / "cifar-10-batches-py"

    monkeypatch.setattr("sharpness.data.cifar.download", fetch)
    options = {"data": "cifar10-lt", "imbalance": 4, "device": "cpu"}
    with pytest.raises(UserError, match="or pass --download"):
        checkpoint_objective(ldam, data_root=str(tmp_path), **options)
    found = checkpoint_objective(ldam, data_root=str(tmp_path), download=True, **options)
    assert fetched == [("cifar10", tmp_path)]
    assert torch.equal(found.x, checkpoint_objective(ldam, data_root=str(cifar), **options).x)


def test_what_is_assumed_of_the_training_data_is_said(ldam, cifar, pictures, caplog):
    caplog.set_level("INFO", logger="sharpness")
    options = {"data": "cifar10-lt", "data_root": str(cifar), "device": "cpu"}
    with pytest.raises(UserError, match="give"):
        checkpoint_objective(ldam, imbalance=0.5, **options)
    checkpoint_objective(ldam, imbalance=4, **options)
    assert caplog.messages[-1].startswith("data: cifar10-lt, imbalance 4, images of subset ldam_seed0 (")
    assert "does not record its subset, defaults are assumed: --subset)" in caplog.messages[-1]
    caplog.clear()
    checkpoint_objective(ldam, imbalance=4, subset="first_n", **options)
    assert not [m for m in caplog.messages if "assumed" in m]
    checkpoint_objective(ldam, data=read_images(pictures), device="cpu")
    assert any("taken to be the images given" in m for m in caplog.messages)
    caplog.clear()
    checkpoint_objective(ldam, data=read_images(pictures, train_counts=list(range(10, 20))), device="cpu")
    assert not any("taken to be" in m for m in caplog.messages)


def test_what_is_missing_is_said(ldam, cifar, tmp_path, state):
    with pytest.raises(UserError, match="data='cifar10-lt'"):
        checkpoint_objective(ldam)
    with pytest.raises(UserError, match="does not record its training set"):
        _ = ldam.longtail
    with pytest.raises(UserError, match="channels"):
        checkpoint_objective(ldam, data="digits-lt")
    with pytest.raises(UserError, match="training loss"):
        checkpoint_objective(ldam, data="cifar10-lt", data_root=str(cifar), imbalance=4, loss="training")
    parts = {
        "feat_model": {f"module.{n}": t for n, t in state.items() if "linear" not in n},
        "classifier": {n.replace("linear.", "module.fc."): t for n, t in state.items() if "linear" in n},
    }
    torch.save({"state_dict_best": parts}, tmp_path / "final_model_checkpoint.pth")
    with pytest.raises(UserError, match="subset='seed:<int>'"):
        checkpoint_objective(tmp_path, data="cifar10-lt", data_root=str(cifar), imbalance=4)
    seeded = {"subset": "seed:3", "imbalance": 4, "data_root": str(cifar)}
    assert checkpoint_objective(tmp_path / "final_model_checkpoint.pth", data="cifar10-lt", **seeded).num_classes == 10


@pytest.fixture
def pictures():
    """8-bit images of ten classes, 3 of class 0 and 2 of the others, with labels."""
    labels = torch.tensor([0, *range(10), *range(10)])
    return torch.randint(0, 256, (21, 3, 16, 16), dtype=torch.uint8), labels


def plain_loss(checkpoint, pictures, mean, std):
    x, y = pictures
    mean, std = (torch.tensor(v)[:, None, None] for v in (mean, std))
    with torch.no_grad():
        return torch.nn.functional.cross_entropy(checkpoint.model((x / 255 - mean) / std), y).item()


def test_own_images_are_normalised_as_the_code_behind_the_file_does(ldam, pictures, caplog):
    known = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    with caplog.at_level("INFO", logger="sharpness"):
        objective = checkpoint_objective(ldam, data=read_images(pictures), device="cpu")
    assert objective.loss() == pytest.approx(plain_loss(ldam, pictures, *known), rel=1e-5)
    assert "normalised by mean 0.491, 0.482, 0.447 and std 0.202" in caplog.text and ldam.path in caplog.text


def test_given_constants_are_respected(ldam, pictures, caplog):
    given = {"mean": (0.5, 0.4, 0.3), "std": (0.25, 0.5, 0.75)}
    with caplog.at_level("INFO", logger="sharpness"):
        objective = checkpoint_objective(ldam, data=read_images(pictures, **given), device="cpu")
    assert objective.loss() == pytest.approx(plain_loss(ldam, pictures, **given), rel=1e-5)
    assert "normalised" not in caplog.text


def test_numbers_are_left_as_they_are(ldam, pictures):
    x, y = pictures[0] / 255, pictures[1]
    objective = checkpoint_objective(ldam, data=read_images((x, y)), device="cpu")
    assert objective.loss() == pytest.approx(plain_loss(ldam, pictures, (0.0,) * 3, (1.0,) * 3), rel=1e-5)


def test_limited_images_count_classes_by_what_they_have(ldam, pictures):
    data = read_images(pictures)
    for objective in (
        checkpoint_objective(ldam, data=data, limit_per_class=1, device="cpu"),
        checkpoint_objective(ldam, data=read_images(pictures, limit_per_class=1), device="cpu"),
    ):
        assert objective.num_samples == 10
        shares = torch.bincount(pictures[1]).numpy() / 21
        assert objective.loss() == pytest.approx(shares @ objective.class_losses(), rel=1e-6)
        assert objective.train_counts.tolist() == [3, *[2] * 9]


def test_a_model_that_numbers_classes_by_their_images_gets_them_so(ldam, pictures):
    """As MiSLAS does for the large sets: image by image, the label is the rank of its class."""
    ldam = replace(ldam, manifest=replace(ldam.manifest, class_order="introsort"))
    counts = [5, 90, 7, 80, 3, 70, 2, 60, 1, 50]
    objective = checkpoint_objective(ldam, data=read_images(pictures, train_counts=counts), device="cpu")
    rank = np.argsort(np.argsort(-np.array(counts)))
    assert objective.y.tolist() == rank[pictures[1].numpy()].tolist()
    assert objective.train_counts.tolist() == sorted(counts, reverse=True)
    assert objective.class_names == tuple("1357920468")
    with pytest.raises(UserError, match="every class has 5 images.*give train_counts"):
        checkpoint_objective(ldam, data=read_images(pictures, train_counts=[5] * 10))


def test_images_of_other_classes_are_told(ldam, pictures):
    x, y = pictures
    with pytest.raises(UserError, match="tells 10 classes apart and the data have 4: name the others, too"):
        checkpoint_objective(ldam, data=read_images((x, y % 4)))
    with pytest.raises(UserError, match="split: only for recorded or named data"):
        checkpoint_objective(ldam, data=read_images(pictures), split="test")
