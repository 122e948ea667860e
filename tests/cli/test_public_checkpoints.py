"""Checkpoints of people who normalised CIFAR-10 differently, in one landscape, one spectrum and one table."""

import json
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sharpness
from sharpness.cli import main

CIFAR = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
PER_CLASS = 2


class Block(nn.Module):
    """A residual block, with option A's shortcut or with kuangliu's."""

    def __init__(self, a, b, stride, learned):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b)
        self.conv2, self.bn2 = nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b)
        self.shortcut = nn.Sequential()
        if learned and (stride > 1 or a != b):
            self.shortcut = nn.Sequential(nn.Conv2d(a, b, 1, stride, bias=False), nn.BatchNorm2d(b))
        self.half = 0 if learned or a == b else (b - a) // 2

    def forward(self, x):
        kept = self.shortcut(x)
        if self.half:
            kept = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.half, self.half))
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + kept)


class Network(nn.Module):
    """A small ResNet with their names; ``normalised`` has LDAM's head, [d, C] without a bias."""

    def __init__(self, groups, learned, seed, normalised=False):
        super().__init__()
        torch.manual_seed(seed)
        self.conv1, self.bn1, a = nn.Conv2d(3, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4), 4
        self.names = []
        for g in range(groups):
            b = 4 * 2**g
            blocks = [Block(a, b, 2 if g else 1, learned), *([Block(b, b, 1, learned)] if learned else [])]
            setattr(self, f"layer{g + 1}", nn.Sequential(*blocks))
            self.names.append(f"layer{g + 1}")
            a = b
        self.linear = nn.Module() if normalised else nn.Linear(a, 10)
        if normalised:
            self.linear.weight = nn.Parameter(torch.randn(a, 10))
        self.train()
        self(torch.randn(32, 3, 32, 32))
        self.eval()

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        for name in self.names:
            x = getattr(self, name)(x)
        z = x.mean((2, 3))
        if isinstance(self.linear, nn.Linear):
            return self.linear(z)
        return 30 * F.normalize(z, dim=1) @ F.normalize(self.linear.weight, dim=0)


def prefixed(state):
    return {f"module.{name}": tensor for name, tensor in state.items()}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Files by label with what each was normalised by and its network, the folder of images, pixels and labels."""
    root = tmp_path_factory.mktemp("public")
    random = np.random.default_rng(0)

    def dump(name, content):
        path = root / "cifar-10-batches-py" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pickle.dumps(content, protocol=2))

    def batch(name, labels):
        rows = random.integers(0, 256, (len(labels), 3072)).astype(np.uint8)
        dump(name, {b"labels": labels.tolist(), b"data": rows})
        return rows

    for k in range(1, 6):
        batch(f"data_batch_{k}", np.arange(200) % 10)  # as many as imbalance 100 needs
    labels = random.permutation(np.repeat(np.arange(10), PER_CLASS))
    rows = batch("test_batch", labels)
    dump("batches.meta", {b"label_names": [f"class{c}".encode() for c in range(10)]})
    networks = {
        "akamaster": (IMAGENET, Network(3, False, 0)),
        "kuangliu": (CIFAR, Network(4, True, 1)),
        "LDAM-DRW": (CIFAR, Network(3, False, 2, normalised=True)),
        "somebody": (HALF, Network(3, False, 3)),
    }
    states = {label: network.state_dict() for label, (_, network) in networks.items()}
    contents = {
        "akamaster": {"state_dict": prefixed(states["akamaster"]), "best_prec1": 91.7},
        "kuangliu": {"net": prefixed(states["kuangliu"]), "acc": 95.3, "epoch": 199},
        "LDAM-DRW": {
            "epoch": 200, "arch": "resnet32", "state_dict": prefixed(states["LDAM-DRW"]),
            "best_acc1": torch.tensor(77.0), "optimizer": {},
        },
        "somebody": states["somebody"],
    }  # fmt: skip
    folders = {"LDAM-DRW": "cifar10_resnet32_LDAM_DRW_exp_0.01_0"}
    files = {}
    for label, content in contents.items():
        files[label] = root / folders.get(label, label) / "model.pth"
        files[label].parent.mkdir()
        torch.save(content, files[label])
    return files, networks, root, torch.from_numpy(rows.reshape(-1, 3, 32, 32)), torch.from_numpy(labels)


def normalised(pixels, constants):
    mean, std = (torch.tensor(v)[:, None, None] for v in constants)
    return (pixels / 255 - mean) / std


@torch.no_grad()
def losses(published, label):
    """Per class, of their own network on pixels that are normalised here."""
    _, networks, _, pixels, labels = published
    constants, network = networks[label]
    values = F.cross_entropy(network(normalised(pixels, constants)), labels, reduction="none").double()
    return np.array([values[labels == c].mean().item() for c in range(10)])


def objective(published, label, parameters="all"):
    files, _, root, *_ = published
    own = dict(zip(("mean", "std"), HALF, strict=True)) if label == "somebody" else {}
    return sharpness.checkpoint_objective(
        files[label], split="test", data="cifar10-lt", data_root=str(root), parameters=parameters, **own
    )


GRID = (-0.2, 0.2, 3)


def test_they_stand_in_one_landscape_one_spectrum_and_one_table(published):
    objectives = {label: objective(published, label) for label in published[0]}
    assert len({one.data_sha256 for one in objectives.values()}) == 3 and len(objectives) == 4
    planes = sharpness.plane(objectives, GRID, GRID)
    # Of the classifier alone, which a tenth of a second will do for.
    heads = {label: objective(published, label, "classifier") for label in published[0]}
    ends = sharpness.eigenvalues(heads, which="both")
    table = sharpness.measure(heads, "loss,lambda_max,random_rise", draws=2)
    frame = table.to_frame().set_index(["model", "class"])
    for label, one in objectives.items():
        wanted = losses(published, label)
        np.testing.assert_allclose(planes[label].class_losses[:, 1, 1], wanted, rtol=1e-4)
        np.testing.assert_allclose(frame.loc[label].loss.loc[[f"class{c}" for c in range(10)]], wanted, rtol=1e-4)
        np.testing.assert_array_equal(planes[label].losses, sharpness.plane(one, GRID, GRID).losses)
        np.testing.assert_array_equal(ends[label].values, sharpness.eigenvalues(heads[label], which="both").values)
        alone = sharpness.measure(heads[label], "loss,lambda_max,random_rise", draws=2)
        np.testing.assert_array_equal(table[label].values, alone.values)
        known = planes[label].provenance["image_constants"]
        np.testing.assert_allclose([known["mean"], known["std"]], published[1][label][0])
    assert len(planes.plot(of=[None, 3])) == 8
    assert ends.plot() is not None and len(table.plot(measure="all")) == 3
    assert len({r.provenance["images_sha256"] for r in planes.values()}) == 1


def test_their_spectra_are_those_of_their_own_networks(published):
    """Of the classifier in float64, against a dense Hessian that uses none of our code."""
    _, networks, _, pixels, labels = published
    for label in ("akamaster", "kuangliu", "somebody"):
        constants, network = networks[label]
        with torch.no_grad():
            z = {}
            network.linear.register_forward_hook(lambda module, inputs, _, z=z: z.update(z=inputs[0].double()))
            network(normalised(pixels, constants))
        head = [p.detach().double() for p in (network.linear.weight, network.linear.bias)]
        size = head[0].numel()

        def value(flat, z=z["z"], size=size, shape=head[0].shape):
            return F.cross_entropy(z @ flat[:size].view(shape).T + flat[size:], labels)

        dense = torch.func.hessian(value)(torch.cat([h.flatten() for h in head]))
        wanted = torch.linalg.eigvalsh(dense)[-1].item()
        one = objective(published, label, "classifier")
        assert sharpness.eigenvalues(one).largest == pytest.approx(wanted, rel=2e-3)


def test_they_do_on_the_command_line(published, tmp_path, capsys):
    files, _, root, *_ = published
    given = [*map(str, files.values()), "--data", "cifar10-lt", "--data-root", str(root), "--split", "test"]
    for label in files:
        own = [",".join(map(str, v)) for v in HALF] if label == "somebody" else ["-", "-"]
        given += ["--mean", own[0], "--std", own[1]]
    labels = {}
    for command in (
        ["measure", "--measures", "loss,lambda_max", "--parameters", "classifier", "--json"],
        ["spectrum", "--json", "--parameters", "classifier"],
    ):
        assert (
            main([*command[:1], *given, *command[1:], *(["--plot", str(tmp_path / "s")] * (command[0] != "measure"))])
            == 0
        )
        rows = json.loads(capsys.readouterr().out)
        labels[command[0]] = list(dict.fromkeys(row["model"] for row in rows))
        if command[0] == "measure":
            found = {(row["model"], row["class"]): row["loss"] for row in rows}
    assert labels["measure"] == labels["spectrum"] and len(labels["measure"]) == 4
    for label, printed in zip(files, labels["measure"], strict=True):
        got = [found[printed, f"class{c}"] for c in range(10)]
        np.testing.assert_allclose(got, losses(published, label), rtol=1e-4)
    out = tmp_path / "landscape"
    assert main(["landscape", *given, "--plane", "3", "--range", "0.2", "--adaptive", "0", "--out", str(out)]) == 0
    assert (out / "contour.png").is_file() and (tmp_path / "s.png").is_file()
    saved = {p.label: p for p in map(sharpness.load_result, out.glob("plane-*.nc"))}
    assert set(saved) == set(labels["measure"])
    for label, printed in zip(files, labels["measure"], strict=True):
        np.testing.assert_allclose(saved[printed].class_losses[:, 1, 1], losses(published, label), rtol=1e-4)
    assert len(type(next(iter(saved.values()))).compare(saved)) == 4


def test_tensors_of_their_own_are_told_by_what_normalised_them(published):
    files, networks, _, pixels, labels = published
    own = {
        label: sharpness.checkpoint_objective(
            files[label], data=(normalised(pixels, constants), labels), mean=constants[0], std=constants[1]
        )
        for label, (constants, _) in networks.items()
    }
    found = sharpness.line(own, GRID)
    for label in own:
        np.testing.assert_allclose(found[label].class_losses[:, 1], losses(published, label), rtol=1e-4)
    wrong = {"data": (normalised(pixels, HALF), labels), "mean": CIFAR[0], "std": CIFAR[1]}
    with pytest.raises(sharpness.UserError, match="do not lead from the inputs back to 8-bit pixels"):
        sharpness.checkpoint_objective(files["somebody"], **wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mean", "0,0,0", "--mean", "1,1,1"], "--mean is given 2 times and --std 0 times for 2 paths"),
        (["--mean", "0,0,0", "--std", "1,1,1", "--mean", "0,0,0", "--std", "1,1"], "give 3 numbers each"),
        (["--mean", "0,0,0", "--std", "1,1,1", "--mean", "-", "--std", "1,1,1"], "--mean '-': write numbers"),
    ],
)
def test_constants_that_do_not_fit_are_refused(options, message, published, mistake):
    files, _, root, *_ = published
    pair = [files["akamaster"], files["somebody"]]
    assert message in mistake("measure", *pair, "--data", "cifar10-lt", "--data-root", root, *options)
    assert "give --images or --data" in mistake("measure", *pair, *["--mean", "0,0,0", "--std", "1,1,1"] * 2)
