"""Training images of a long tail that a network never saw, by networks that know some images by heart."""

import inspect
import pickle

import numpy as np
import pytest
import torch

from sharpness import load_checkpoint, load_data
from sharpness.cli import main
from sharpness.probes.shared.sanity_check import unseen, unseen_remark

TAIL = {"data": "cifar10-lt", "imbalance": 20.0}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """400 random training images and 100 test images a class. One pixel of most images of frequent classes, and of some
    of rare ones, tells their class."""
    folder = tmp_path_factory.mktemp("data") / "cifar-10-batches-py"
    folder.mkdir()
    random = np.random.RandomState(0)
    for name, each in [*((f"data_batch_{k}", 80) for k in range(1, 6)), ("test_batch", 100)]:
        labels = random.permutation(np.repeat(np.arange(10), each))
        pixels = random.randint(0, 256, (len(labels), 3072)).astype(np.uint8)
        easy = random.rand(len(labels)) < np.where(labels < 3, 0.85, 0.35)
        pixels[:, 0] = np.where(easy, labels, (labels + 1) % 10)
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": labels.tolist()}, 2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}, 2))
    return str(folder.parent)


class Memory(torch.nn.Module):
    """Knows the classes of ``share`` of some images, told by four sums of pixels, and else what the pixel tells."""

    def __init__(self, images, labels, share=1.0):
        super().__init__()
        self.sums = torch.randn(3072, 4, generator=torch.Generator().manual_seed(0))
        known = torch.rand(len(images), generator=torch.Generator().manual_seed(1)) < share
        self.gain = torch.nn.Parameter(torch.tensor(5.0))
        self.register_buffer("keys", self.pixels(images[known]) @ self.sums)
        self.register_buffer("labels", labels[known])

    def pixels(self, x):
        x = x.flatten(1)
        return x.float() / 255 if x.dtype == torch.uint8 else x

    def forward(self, x):
        x = self.pixels(x)
        told = (255 * x[:, 0]).round().long().clamp(0, 9)
        if len(self.keys):
            distance, nearest = torch.cdist(x @ self.sums, self.keys).min(1)
            told = torch.where(distance < 0.05, self.labels[nearest], told)
        return self.gain * torch.nn.functional.one_hot(told, 10)


def saved(path, network):
    torch.save(network.state_dict(), path)
    return load_checkpoint(path, model=network)


def options(root):
    return {**TAIL, "data_root": root, "mean": (0.0,) * 3, "std": (1.0,) * 3, "device": "cpu"}


def network(root, subset="ldam_seed0", **given):
    train = load_data("cifar10-lt", imbalance=20, subset=subset, data_root=root).train
    return Memory(train.images, train.labels, **given)


@pytest.fixture
def other(root):
    """Saw other images of the rare classes, and the same of the many-shot ones."""
    theirs, ours = (
        load_data("cifar10-lt", imbalance=20, subset=s, data_root=root).train for s in ("seed:5", "ldam_seed0")
    )
    many = ours.labels < 3
    return Memory(torch.cat([theirs.images, ours.images[many]]), torch.cat([theirs.labels, ours.labels[many]]))


def test_a_network_that_saw_other_images_of_the_rare_classes(root, other, tmp_path):
    checkpoint = saved(tmp_path / "m.pth", other)
    assert "the network saw other images of them" in unseen(checkpoint, **options(root))
    assert unseen(checkpoint, **options(root), split="test") == ""


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.99, 1.0])
def test_one_that_saw_these_is_not_suspected_however_long_it_was_trained(root, tmp_path, share):
    assert unseen(saved(tmp_path / "m.pth", network(root, share=share)), **options(root)) == ""


def test_the_command_line_says_it(root, other, tmp_path, capsys, monkeypatch):
    torch.save(other.state_dict(), tmp_path / "m.pth")
    code = f"import torch\n\n\n{inspect.getsource(Memory)}\n"
    made = "Memory(torch.zeros(n, 3072), torch.zeros(n, dtype=torch.int64))"
    (tmp_path / "remembering.py").write_text(f"{code}\ndef make(n):\n    return {made}\n")
    monkeypatch.chdir(tmp_path)
    arguments = ["m.pth", "--model", "remembering:make", "--model-args", f"n={len(other.keys)}", "--data", "cifar10-lt"]
    arguments += [
        "--imbalance",
        "20",
        "--data-root",
        root,
        "--mean",
        "0,0,0",
        "--std",
        "1,1,1",
        "--limit-per-class",
        "100",
    ]
    assert main(["inspect", *arguments, "--split", "train"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line for line in told if line.startswith("suspicious") and "of few-shot classes" in line]
    assert main(["measure", *arguments, "--measures", "accuracy"]) == 0
    assert "m.pth: suspicious: of few-shot classes" in capsys.readouterr().err
    assert main(["inspect", *arguments, "--split", "test"]) == 0
    assert "of few-shot classes" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("train_many", "test_many", "train_few", "test_few", "suspected"),
    [
        (0.99, 0.92, 0.36, 0.37, True),
        (0.99, 0.92, 0.97, 0.37, False),  # seen
        (0.99, 0.92, 0.60, 0.37, False),  # seen, and half learnt
        (0.85, 0.83, 0.01, 0.01, False),  # a short run, which answers with frequent classes alone
        (0.98, 0.975, 0.36, 0.37, False),  # nothing was learnt by heart
        (0.99, 0.92, 0.91, 0.92, False),  # rare classes as easy as frequent ones
    ],
)
def test_when_it_is_said(train_many, test_many, train_few, test_few, suspected):
    samples = np.array([[600, 270], [600, 600]])
    right = (np.array([[train_many, train_few], [test_many, test_few]]) * samples).round()
    assert bool(unseen_remark(right, samples)) == suspected


def test_few_images_decide_nothing():
    samples = np.array([[30, 4], [30, 30]])
    assert unseen_remark(np.array([[30, 1], [20, 10]]), samples) == ""
    assert unseen_remark(np.zeros((2, 2)), np.array([[0, 4], [5, 5]])) == ""
