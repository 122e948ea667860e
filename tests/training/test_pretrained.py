"""Training that begins at the weights of a file: of an architecture, of a frozen trunk, of a published recipe."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharpness import load_checkpoint, train
from sharpness.cli import main
from sharpness.errors import UserError
from sharpness.methods import build_recipe
from sharpness.models import BACKBONES, FrozenTrunk, ResNet, build_model
from sharpness.training.loop import initial_model
from sharpness.training.pretrained import Pretrained, architecture_of


@pytest.fixture(scope="module")
def places(digits):
    """Digits under the name of Places-LT, whose recipes begin at weights of ImageNet."""
    return replace(digits, longtail=replace(digits.longtail, dataset="places-lt"), default_model="tiny")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """A network of few channels, and it with a frozen trunk."""
    for name, kind in {"tiny": ResNet, "tiny-trunk": FrozenTrunk}.items():
        made = partial(kind, (1, 2), True, width=4, stem="cifar")
        monkeypatch.setitem(BACKBONES._built_in, name, made)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file as torchvision's: a plain state dict with a classifier of a thousand classes."""
    torch.manual_seed(3)
    network = ResNet((1, 2), True, 1, width=4, stem="cifar")
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
    path = tmp_path_factory.mktemp("published") / "tiny-394f9c45.pth"
    state = network.state_dict()
    torch.save(state | {"fc.weight": torch.randn(100, 32), "fc.bias": torch.zeros(100)}, path)
    return path, state


def test_training_begins_at_the_weights_and_buffers_of_the_file(digits, published, tmp_path):
    path, state = published
    train("ce", digits, tmp_path / "run", epochs=1, model="tiny", pretrained=path, snapshots=1)
    begun = load_checkpoint(tmp_path / "run" / "snapshots" / "epoch-0000.pt")
    found = begun.model.backbone.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    random = initial_model(build_recipe("ce", digits.longtail), "tiny", digits, 0)
    assert torch.equal(begun.model.head.weight, random.head.weight)
    assert begun.label == "CE (pretrained)" and "tiny-394f9c45.pth" in begun.manifest.card[0]["begins at"]
    assert begun.manifest.training["pretrained_sha256"] == load_checkpoint(path).sha256
    with pytest.raises(UserError, match="different run .pretrained_sha256"):
        train("ce", digits, tmp_path / "run", epochs=1, model="tiny", snapshots=1)


def test_a_frozen_trunk_stays_and_its_last_block_begins_anew(places, published, tmp_path):
    """As MiSLAS's code for Places-LT: a trunk in eval mode, and a new block and classifier that learn."""
    path, state = published
    train("mislas", places, tmp_path / "run", epochs=1, pretrained=path)
    saved = load_checkpoint(tmp_path / "run")
    assert saved.manifest.model.architecture == "tiny-trunk"
    found = saved.model.backbone.state_dict()
    kept = {name for name in state if torch.equal(found[name], state[name])}
    assert kept >= {name for name in state if not name.startswith("layer2.1.")}
    assert not any(name in kept for name in ("layer2.1.conv1.weight", "layer2.1.bn1.running_mean"))
    assert {name.split(".")[0] for name, _ in saved.model.backbone.named_parameters()} == {"layer2"}
    # A network of torchvision's kind with the same numbers has the same features.
    whole = ResNet((1, 2), True, 1, width=4, stem="cifar").eval()
    whole.load_state_dict(found)
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(whole(x), saved.model.backbone(x))


@pytest.mark.parametrize("method", ["gcl", "cc-sam", "m2m", "rsg"])
def test_other_methods_leave_the_trunk_alone(places, published, tmp_path, method):
    path, state = published
    options = {"steps": 1} if method == "m2m" else {}
    train(method, places, tmp_path / "r", epochs=1, model="tiny-trunk", pretrained=path, flatten=("swa:0",), **options)
    found = load_checkpoint(tmp_path / "r").model.backbone.state_dict()
    assert all(torch.equal(found[name], state[name]) for name in state if not name.startswith("layer2.1."))


def test_gradients_of_a_trunk_reach_the_images_and_not_its_weights(published):
    network = build_model("tiny-trunk", 3, 1).train()
    x = torch.randn(4, 1, 8, 8, requires_grad=True)
    F.cross_entropy(network(x), torch.tensor([0, 1, 2, 0])).backward()
    assert x.grad.abs().sum() > 0 and not network.backbone.bn1.training and network.backbone.last_block.bn1.training
    assert all(p.grad is not None for p in network.parameters())
    assert sum(isinstance(m, nn.Conv2d) for m in network.backbone.trunk[-1].modules()) == 4


def test_the_published_network_is_resnet_152_without_its_last_block():
    with torch.device("meta"):
        network = BACKBONES["resnet152-trunk"](3)
    assert network.fresh == "layer4.2." and sum(p.numel() for p in network.parameters()) == 4_462_592
    names = {name for name in network.state_dict() if not name.startswith("layer4.2.")}
    with torch.device("meta"):
        assert names < BACKBONES["resnet152"](3).state_dict().keys()


def test_what_recipes_begin_at(places, digits, tmp_path, published):
    mislas, ce = (build_recipe(method, places.longtail) for method in ("mislas", "ce"))
    assert architecture_of(mislas, "resnet152", True) == "resnet152-trunk"
    assert architecture_of(mislas, "resnet152", False) == architecture_of(ce, "resnet152", True) == "resnet152"
    assert architecture_of(mislas, "resnet10-cifar", True) == "resnet10-cifar"
    train("ce", places, tmp_path / "random", epochs=1)
    assert any("pretrained=" in note for note in load_checkpoint(tmp_path / "random").manifest.notes)
    train("ce", digits, tmp_path / "usual", epochs=1, model="tiny")
    assert not any("pretrained" in note for note in load_checkpoint(tmp_path / "usual").manifest.notes)


@pytest.mark.usefixtures("narrow_resnet8")
def test_a_file_of_another_network_is_refused_before_anything_is_written(digits, published, tmp_path, capsys):
    path, _ = published
    with pytest.raises(UserError, match=r"missing.*give weights of a resnet8"):
        train("ce", digits, tmp_path / "a", model="resnet8", pretrained=path)
    with pytest.raises(UserError, match=r"pretrained=FILE .*model='tiny'"):
        train("ce", digits, tmp_path / "a", model="tiny-trunk")
    assert not (tmp_path / "a").exists()
    assert main(["train", "--method", "ce", "--pretrained", str(tmp_path / "none.pth")]) == 2
    assert "none.pth" in capsys.readouterr().err


def test_the_weights_are_those_of_a_state_dict_of_torchvision(published):
    path, state = published
    read = Pretrained.read(path)
    assert {name: tuple(t.shape) for name, t in read.state.items()} == {n: tuple(t.shape) for n, t in state.items()}
