"""Networks of libraries by name, with stand-ins for the libraries: what is asked of them, and what is made of it."""

import json
import sys
from enum import Enum
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import sharpness
from sharpness.cli import main
from sharpness.data import read_images
from sharpness.errors import UserError
from sharpness.models import build_model
from sharpness.models.factory import model_from
from sharpness.registries import HUBS

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)


def network(num_classes=1000, channels=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, num_classes))


@pytest.fixture
def calls():
    """Calls of the stand-ins, and names of what they have downloaded."""
    return []


@pytest.fixture
def timm(monkeypatch, tmp_path, calls):
    """One network, whose weights are in ``tmp_path / 'kept.pt'`` or would be downloaded."""
    library = ModuleType("timm")
    config = {"mean": MEAN, "std": STD, "input_size": (3, 8, 8), "crop_pct": 0.8, "interpolation": "bicubic"}

    def create_model(name, pretrained=False, num_classes=2, in_chans=3, pretrained_cfg_overlay=None):
        made = network(num_classes, in_chans)
        made.num_classes, made.pretrained_cfg = num_classes, config
        if pretrained:
            file = (pretrained_cfg_overlay or {}).get("file")
            calls.append(file or f"downloaded {name}")
            if file:
                made.load_state_dict(torch.load(file, weights_only=True))
        return made

    library.create_model = create_model
    library.is_model = lambda name: name.partition(".")[0] in ("resnet18", "untrained")
    library.list_models = lambda: ["resnet18", "untrained"]
    known = SimpleNamespace(hf_hub_id=None, hf_hub_filename=None, url="https://nowhere.invalid/kept.pt")
    library.models = SimpleNamespace(
        get_pretrained_cfg=lambda name: SimpleNamespace(**vars(known), has_weights=name.startswith("resnet18"))
    )
    monkeypatch.setitem(sys.modules, "timm", library)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return library


@pytest.fixture
def kept(tmp_path, timm):
    """Weights that an earlier download left: all of them 0.5."""
    state = {name: torch.full_like(t, 0.5) for name, t in network(2).state_dict().items()}
    torch.save(state, tmp_path / "checkpoints" / "kept.pt")
    return tmp_path / "checkpoints" / "kept.pt"


@pytest.fixture
def pictures(tmp_path):
    """Two classes of two images of 20 x 24 pixels."""
    random = np.random.default_rng(0)
    for c in "ab":
        (tmp_path / "val" / c).mkdir(parents=True)
        for i in range(2):
            pixels = random.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "val" / c / f"{i}.png")
    return tmp_path / "val"


def prepared(folder, size, resize):
    """The images as the network takes them, by Pillow and by hand."""
    made = []
    for path in sorted(folder.rglob("*.png")):
        image = Image.open(path).resize((resize * 24 // 20, resize), Image.Resampling.BILINEAR)
        left, top = (round((n - size) / 2) for n in image.size)
        pixels = np.asarray(image.crop((left, top, left + size, top + size)), dtype=np.float64) / 255
        made.append((pixels - MEAN) / STD)
    return torch.tensor(np.stack(made).transpose(0, 3, 1, 2)).float()


def test_weights_that_are_here_are_read_without_a_download(timm, kept, calls):
    checkpoint = sharpness.load_checkpoint("timm:resnet18.a1_in1k")
    assert calls == [str(kept)]
    assert all((t == 0.5).all() for t in checkpoint.model.state_dict().values())
    assert not checkpoint.model.training
    assert checkpoint.manifest.normalization.mean == MEAN and checkpoint.manifest.normalization.std == STD
    assert checkpoint.manifest.extra == {"size": 8, "resize": 10}
    assert "bicubic" in checkpoint.manifest.notes[0]


def test_another_way_to_crop_is_noted(timm, kept):
    timm.create_model("resnet18").pretrained_cfg["crop_mode"] = "squash"
    notes = sharpness.load_checkpoint("timm:resnet18").manifest.notes
    assert any("in the mode 'squash'" in note for note in notes)


def test_nothing_is_downloaded_unless_it_is_asked_for(timm, calls):
    with pytest.raises(UserError, match="not on this machine: add --download"):
        sharpness.load_checkpoint("timm:resnet18")
    assert calls == []
    sharpness.load_checkpoint("timm:resnet18", download=True)
    assert calls == ["downloaded resnet18"]


def test_a_published_network_is_measured_on_images_cropped_as_its_authors_do(timm, kept, pictures, capsys):
    command = ["measure", "timm:resnet18", "--images", str(pictures), "--measures", "loss", "--json"]
    assert main(command) == 0
    by_name = capsys.readouterr().out
    assert main(["measure", "--model", *command[1:]]) == 0
    assert capsys.readouterr().out == by_name
    model = network(2)
    model.load_state_dict(torch.load(kept, weights_only=True))
    losses = nn.functional.cross_entropy(model(prepared(pictures, 8, 10)), torch.tensor([0, 0, 1, 1]), reduction="none")
    found = {row["class"]: row["loss"] for row in json.loads(by_name)}
    assert found["a"] == pytest.approx(losses[:2].mean().item(), rel=1e-5)
    assert found["b"] == pytest.approx(losses[2:].mean().item(), rel=1e-5)
    # Arrays are not cropped: they are the network's inputs already.
    inputs = (prepared(pictures, 8, 10).numpy().transpose(0, 2, 3, 1) * STD + MEAN) * 255
    np.savez(pictures.parent / "images.npz", x=inputs.round().astype(np.uint8), y=[0, 0, 1, 1])
    assert main([*command[:3], str(pictures.parent / "images.npz"), *command[4:]]) == 0
    found = {row["class"]: row["loss"] for row in json.loads(capsys.readouterr().out)}
    assert found["0"] == pytest.approx(losses[:2].mean().item(), rel=1e-5)


def test_a_file_takes_the_architecture_alone(timm, tmp_path, calls):
    torch.save(network(5).state_dict(), tmp_path / "five.pt")
    file = sharpness.load_checkpoint(
        tmp_path / "five.pt", model=lambda: model_from("timm:resnet18", {"num_classes": 5})
    )
    assert found_classes(file.model) == 5 and calls == []


def found_classes(model):
    return model(torch.zeros(1, 3, 8, 8)).shape[1]


def test_a_network_of_a_library_is_trained_whole(timm, calls):
    model = build_model("timm:resnet18", 7, in_channels=1, head="linear")
    assert model(torch.zeros(1, 1, 8, 8)).shape == (1, 7) and model.spec.head == "own" and calls == []
    with pytest.raises(UserError, match="is whole and the method has a cosine head"):
        build_model("timm:resnet18", 7, head="cosine")


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("timm:resnet19", "timm:resnet19: the library has no network of this name: did you mean resnet18?"),
        ("timm:untrained", "timm has no weights of 'untrained': give a file and --model timm:untrained"),
        ("torchvision:x", "torchvision:x needs torchvision, which is not installed: pip install torchvision"),
    ],
)
def test_a_name_that_is_not_there_is_one_line(timm, monkeypatch, given, line):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(UserError) as error:
        sharpness.load_checkpoint(given)
    assert str(error.value) == line


def test_options_of_files_are_refused_for_a_published_network(timm, kept):
    with pytest.raises(UserError, match="leave out family, head"):
        sharpness.load_checkpoint("timm:resnet18", family="plain", head="linear")
    with pytest.raises(UserError, match="num_classes=3 was given, but timm:resnet18 tells 2 apart"):
        sharpness.load_checkpoint("timm:resnet18", num_classes=3)


def test_a_file_of_that_name_comes_first(timm, tmp_path, monkeypatch, calls):
    monkeypatch.chdir(tmp_path)
    torch.save(build_model("resnet8", 2).state_dict(), "timm:resnet18")
    assert sharpness.load_checkpoint("timm:resnet18").manifest.family == "plain state_dict" and calls == []


@pytest.fixture
def torchvision(monkeypatch, tmp_path, calls):
    Way = Enum("Way", {"BILINEAR": "bilinear"})  # noqa: N806
    images = SimpleNamespace(crop_size=[8], resize_size=[9], mean=MEAN, std=STD, interpolation=Way.BILINEAR)

    class Weights(Enum):
        V1, V2 = "v1", "v2"
        DEFAULT = "v2"
        url = property(lambda self: f"https://nowhere.invalid/{self.value}.pt")
        meta = property(lambda self: {"categories": ["cat", "dog"]})

        def transforms(self):
            return images

    models = ModuleType("torchvision.models")

    def get_model(name, weights=None, num_classes=1000):
        calls.append((name, weights and weights.name))
        return network(2 if weights else num_classes)

    models.get_model, models.get_model_weights = get_model, lambda name: Weights
    models.list_models = lambda module: ["resnet18"] if module is models else ["resnet18", "fcn"]
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(models=models))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "v1.pt").touch()


def test_torchvision_names_its_weights_behind_a_point(torchvision, calls):
    checkpoint = sharpness.load_checkpoint("torchvision:resnet18.V1")
    assert calls == [("resnet18", "V1")] and checkpoint.manifest.extra == {"size": 8, "resize": 9}
    assert checkpoint.manifest.model.num_classes == 2 and checkpoint.manifest.notes == ()
    with pytest.raises(UserError, match="not on this machine"):
        sharpness.load_checkpoint("torchvision:resnet18")
    with pytest.raises(UserError, match="choose one of V1, V2"):
        sharpness.load_checkpoint("torchvision:resnet18.V3")
    with pytest.raises(UserError, match="no network of this name"):
        sharpness.load_checkpoint("torchvision:fcn")
    assert found_classes(model_from("torchvision:resnet18", {"num_classes": 4})) == 4
    with pytest.raises(UserError, match="takes images of 3 channels, not 1"):
        model_from("torchvision:resnet18", {"in_channels": 1})


class Output(dict):
    """Several fields, as networks of transformers return them."""


class Classifier(nn.Module):
    def __init__(self, classes=2):
        super().__init__()
        self.body, self.config = network(classes), SimpleNamespace(num_labels=classes)

    def forward(self, pixel_values):
        return Output(logits=self.body(pixel_values), hidden_states=None)


@pytest.fixture
def transformers(monkeypatch, calls):
    images = {"image_mean": MEAN, "image_std": STD, "size": {"height": 8, "width": 8}, "resample": 2}
    library, missing = ModuleType("transformers"), []

    def recorded(make):
        def from_pretrained(name, local_files_only, trust_remote_code, **options):
            assert trust_remote_code is False
            calls.append(local_files_only)
            if name == "absent" and local_files_only:
                raise OSError("We couldn't connect")
            return make(**options)

        return SimpleNamespace(from_pretrained=from_pretrained)

    def classifier(use_safetensors, output_loading_info):
        assert use_safetensors and output_loading_info
        return Classifier(), {"missing_keys": missing}

    library.AutoModelForImageClassification = recorded(classifier)
    library.AutoModelForImageClassification.from_config = lambda config: Classifier(config.num_labels)
    library.AutoConfig = recorded(lambda num_labels=2: SimpleNamespace(num_labels=num_labels))
    library.AutoImageProcessor = recorded(lambda: SimpleNamespace(to_dict=lambda: images))
    monkeypatch.setitem(sys.modules, "transformers", library)
    return SimpleNamespace(images=images, missing=missing)


def test_transformers_answer_with_their_logits_and_run_no_code_of_a_model(transformers, calls):
    checkpoint = sharpness.load_checkpoint("hf:owner/name")
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(checkpoint.model(x), network(2)(x)) and calls == [True, True]
    assert list(checkpoint.model.state_dict()) == ["body.2.weight", "body.2.bias"]  # as files have them
    assert checkpoint.label == "name" and "stretches images to 8 x 8" in checkpoint.manifest.notes[0]
    for number, notes in ((0, "by nearest interpolation"), (2, ""), (9, "by another interpolation")):
        transformers.images["resample"] = number  # of Pillow, 0 is the nearest pixel
        told = "".join(sharpness.load_checkpoint("hf:owner/name").manifest.notes[1:])
        assert notes in told and bool(notes) == bool(told)
    assert found_classes(model_from("hf:folder", {"num_classes": 5})) == 5
    objective = sharpness.Objective(checkpoint.model, (x, torch.tensor([0, 1, 0])))
    assert objective.loss() == pytest.approx(
        nn.functional.cross_entropy(network(2)(x), torch.tensor([0, 1, 0])).item(), rel=1e-6
    )


@pytest.mark.parametrize(
    ("size", "more", "expected"),
    [
        ({"shortest_edge": 10}, {"crop_size": {"height": 8, "width": 8}}, (8, 10)),
        ({"shortest_edge": 14}, {"crop_pct": 0.875}, (14, 16)),
        ({"shortest_edge": 14}, {}, (14, 14)),
        ({"shortest_edge": 384}, {"crop_pct": 0.875}, (384, 384)),  # ConvNeXT crops nothing from this size on
    ],
)
def test_the_crop_of_transformers_is_that_of_its_processor(transformers, size, more, expected):
    transformers.images.update(size=size, **more)
    extra = sharpness.load_checkpoint("hf:name").manifest.extra
    assert (extra["size"], extra["resize"]) == expected


def test_weights_of_transformers_that_are_not_there_are_told(transformers):
    with pytest.raises(UserError, match="hf:absent are not on this machine: add --download"):
        sharpness.load_checkpoint("hf:absent")
    transformers.missing.append("classifier.weight")
    with pytest.raises(UserError, match="no weights of classifier.weight, which would be random"):
        sharpness.load_checkpoint("hf:name")


def test_a_package_may_offer_a_library_of_its_own(pictures):
    class Zoo:
        def make(self, name, num_classes, in_channels, **arguments):
            return network(num_classes or 2)

        def published(self, name, download):
            from sharpness.models.hubs import Published

            return Published(network(2), 2, MEAN, STD, 8, 10)

    HUBS.register("zoo2", Zoo())
    try:
        checkpoint = sharpness.load_checkpoint("zoo2:any")
        images = read_images(pictures, size=8, resize=10)
        objective = sharpness.checkpoint_objective(checkpoint, data=images)
        expected = nn.functional.cross_entropy(network(2)(prepared(pictures, 8, 10)), torch.tensor([0, 0, 1, 1])).item()
        assert objective.loss() == pytest.approx(expected, rel=1e-5)
    finally:
        del HUBS["zoo2"]
