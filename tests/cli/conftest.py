"""A run of ours, and a stranger: a network in a file of their own, its weights, and their images in three layouts."""

import json
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from sharpness.cli import main

NETWORKS = '''
import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, a, b, stride):
        super().__init__()
        self.c1, self.n1 = nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b)
        self.c2, self.n2 = nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b)
        self.down = nn.Conv2d(a, b, 1, stride, bias=False) if a != b else nn.Identity()

    def forward(self, x):
        return F.relu(self.n2(self.c2(F.relu(self.n1(self.c1(x))))) + self.down(x))


class TheirResNet(nn.Module):
    def __init__(self, num_classes=3, width=4, returns="logits"):
        super().__init__()
        self.returns = returns
        self.stem = nn.Conv2d(3, width, 3, 1, 1)
        self.stages = nn.Sequential(Block(width, width, 1), Block(width, 2 * width, 2))
        self.fc = nn.Linear(2 * width, num_classes)

    def forward(self, x):
        features = self.stages(F.relu(self.stem(x))).mean((2, 3))
        logits = self.fc(features)
        return {"logits": logits, "dict": {"features": features, "logits": logits}, "tuple": (features, logits)}[
            self.returns
        ]


class Viewed(nn.Module):
    """Its view fails on images in channels-last layout."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 2, 3, padding=1), nn.Linear(128, 3)

    def forward(self, x):
        x = torch.tanh(self.conv(x))
        return self.fc(x.view(x.size(0), -1))


def grey():
    return nn.Sequential(nn.Conv2d(1, 2, 8), nn.Flatten(), nn.Linear(2, 3))


def talks():
    print("three layers")
    return TheirResNet()


def fails():
    raise OSError("no such disk")
'''
CLASSES, COUNTS = ("ant", "bee", "cat"), (16, 8, 4)


@dataclass
class Stranger:
    """Their folder, the classes of their module, and their images (n, h, w, 3) with labels."""

    folder: Path
    networks: dict
    images: np.ndarray
    labels: torch.Tensor

    def inputs(self, mean=None, std=None):
        x = torch.from_numpy(self.images.transpose(0, 3, 1, 2) / 255)
        mean = x.mean((0, 2, 3)) if mean is None else torch.tensor(mean)
        std = x.std((0, 2, 3), correction=0) if std is None else torch.tensor(std)
        return ((x - mean[:, None, None]) / std[:, None, None]).float().contiguous()

    def network(self, file="bare.pt", **options):
        model = self.networks["TheirResNet"](**options)
        model.load_state_dict(torch.load(self.folder / file, weights_only=True))
        return model.eval()

    @torch.no_grad()
    def losses(self, model, **constants):
        """Per sample, and whether it is right."""
        logits = model(self.inputs(**constants))
        return F.cross_entropy(logits, self.labels, reduction="none"), logits.argmax(1) == self.labels

    def by_class(self, values):
        return [values[self.labels == c].double().mean().item() for c in range(3)]


@pytest.fixture(scope="session")
def strangers_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stranger")
    (folder / "their_networks.py").write_text(NETWORKS)
    networks = runpy.run_path(str(folder / "their_networks.py"))
    random = np.random.default_rng(0)
    centres = random.integers(60, 196, (3, 8, 8, 3))
    labels = np.repeat([0, 1, 2], COUNTS)
    images = np.clip(centres[labels] + random.normal(0, 50, (28, 8, 8, 3)), 0, 255).astype(np.uint8)
    rows = []
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / "pictures" / CLASSES[label] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        rows.append((f"pictures/{CLASSES[label]}/{path.name}", label))
    (folder / "list.txt").write_text("".join(f"{path} {label}\n" for path, label in rows))
    (folder / "rotated.txt").write_text("".join(f"{path} {(label + 1) % 3}\n" for path, label in rows))
    np.savez(folder / "images.npz", x=images, y=labels)
    (folder / "counts.json").write_text(json.dumps([160, 80, 4]))
    stranger = Stranger(folder, networks, images, torch.from_numpy(labels))
    torch.manual_seed(0)
    model = networks["TheirResNet"]()
    optimizer, x = torch.optim.Adam(model.parameters(), 1e-2), stranger.inputs()
    for _ in range(25):
        optimizer.zero_grad()
        F.cross_entropy(model(x), stranger.labels).backward()
        optimizer.step()
    torch.save(model.state_dict(), folder / "bare.pt")
    torch.save({"model": model.state_dict(), "epoch": 3}, folder / "wrapped.pth")
    torch.save(networks["TheirResNet"](width=6).state_dict(), folder / "wide.pt")
    torch.save(networks["Viewed"]().state_dict(), folder / "viewed.pt")
    return stranger


@pytest.fixture
def stranger(strangers_files, monkeypatch):
    """Their folder is the current one."""
    monkeypatch.chdir(strangers_files.folder)
    return strangers_files


@pytest.fixture(scope="module", autouse=True)
def small(shallow_resnet8):
    """What commands print and write does not hang on the size of a network."""


@pytest.fixture(autouse=True)
def blank(blank_pictures):
    """Which pictures a command writes does not hang on how they are drawn; one test of each command asks for them."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of ours; not to be changed."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", "--method", "ldam-drw", "--epochs", "1", "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def undrawn(monkeypatch):
    """``sharpness landscape`` without its pictures, for what they have no part in: they take most of its time."""
    monkeypatch.setattr("sharpness.results.Comparison.plot", lambda *_, **__: None)
    monkeypatch.setattr(sys.modules["sharpness.cli.landscape"], "save_drawn", lambda *_, **__: None)


@pytest.fixture
def rows(capsys):
    """Rows that a command prints as JSON, by class, and what it says beside them."""

    def call(*arguments):
        code = main([*map(str, arguments), "--json"])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        found = json.loads(captured.out)
        key = (lambda r: (r["model"], r["class"])) if "model" in found[0] else (lambda r: r["class"])
        return {key(row): row for row in found}, captured.err

    return call


@pytest.fixture
def mistake(capsys):
    """The line on stderr of a command that must fail with exit code 2 and print nothing else."""

    def call(*arguments):
        code = main([*map(str, arguments)])
        captured = capsys.readouterr()
        assert code == 2 and captured.out == "", captured.err
        *notices, line = captured.err.splitlines()
        known = ("normalised", "are taken to be", "left out in")
        assert all(any(part in notice for part in known) for notice in notices), captured.err
        return line

    return call
