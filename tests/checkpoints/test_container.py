"""Our checkpoint: what goes in comes out, and nothing in a file is ever executed."""

import hashlib
import pickle
import zipfile

import pytest
import torch

from sharpness import load_checkpoint, load_data
from sharpness.checkpoints import read_safely, save_checkpoint
from sharpness.checkpoints.container import FORMAT, VERSION
from sharpness.errors import UserError
from sharpness.models import HEADS, build_model


@pytest.fixture
def data():
    return load_data("digits-lt", profile="step", imbalance=13, subset="seed:5", groups="40,10")


@pytest.fixture
def saved(tmp_path, data):
    """A file and the model in it."""
    model = build_model("resnet8", 10, 1)
    path = tmp_path / "last.pt"
    save_checkpoint(
        path,
        model,
        {"method": "ce", "label": "CE", "longtail": data.longtail.to_dict(), "data_sha256": data.train.sha256()},
    )
    return path, model


def content(path):
    """What an earlier version wrote, whose files have no checksum."""
    return {k: v for k, v in torch.load(path, weights_only=True).items() if k != "checksum"}


def refused(path, message):
    with pytest.raises(UserError, match=message) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("scale", [None, 17.0])
def test_logits_survive_exactly(tmp_path, head, scale):
    if head.startswith("linear"):
        scale = None
    model = build_model("resnet8", 7, 2, head, scale).train()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(20, 2, 8, 8, generator=generator)
    model(x)
    for p in model.head.parameters():
        p.data.add_(torch.rand(p.shape, generator=generator))
    save_checkpoint(tmp_path / "model.pt", model, {"method": "ce"})
    assert model.training, "saving leaves the model as it was"
    loaded = load_checkpoint(tmp_path / "model.pt")
    assert not loaded.model.training
    assert torch.equal(loaded.model(x), model.eval()(x))
    assert loaded.model.spec == model.spec


def test_changes_between_stages_survive(tmp_path):
    model = build_model("resnet8", 7, 1, "cosine")
    model.rescale(20)
    model.add_weight_scaling()
    save_checkpoint(tmp_path / "model.pt", model, {})
    loaded = load_checkpoint(tmp_path / "model.pt").model
    x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(loaded(x), model.eval()(x))
    assert loaded.head.head.scale == 20


def test_tied_weights_are_saved_in_both_formats(tmp_path):
    model = build_model("resnet8", 3, 1).eval()
    block = model.backbone.layer1[0]
    block.conv2.weight = block.conv1.weight
    x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    for name in ("a.pt", "a.safetensors"):
        save_checkpoint(tmp_path / name, model, {})
        assert torch.equal(load_checkpoint(tmp_path / name).model(x), model(x))


def test_the_file_holds_tensors_and_plain_values_only(saved):
    path, model = saved
    whole = content(path)
    assert whole.keys() == {"format", "version", "manifest", "state_dict"}
    assert type(torch.load(path, weights_only=True)["checksum"]) is str
    assert (whole["format"], whole["version"]) == (FORMAT, VERSION)
    assert {type(tensor) for tensor in whole["state_dict"].values()} == {torch.Tensor}
    assert not any(tensor.requires_grad for tensor in whole["state_dict"].values())
    assert whole["state_dict"].keys() == model.state_dict().keys()


def test_a_checkpoint_knows_its_file_and_its_label(saved):
    path, _ = saved
    loaded = load_checkpoint(str(path))
    assert loaded.path == str(path)
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.label == "CE"


def test_a_folder_stands_for_the_last_weights_in_it(saved):
    path, _ = saved
    assert load_checkpoint(path.parent).sha256 == load_checkpoint(path).sha256


@pytest.mark.parametrize(("manifest", "label"), [({"method": "gcl"}, "gcl"), ({}, "best")])
def test_without_a_label_the_method_or_the_file_names_it(tmp_path, manifest, label):
    save_checkpoint(tmp_path / "best.pt", build_model("resnet8", 3, 1), manifest)
    assert load_checkpoint(tmp_path / "best.pt").label == label


def test_the_data_are_rebuilt_from_the_manifest(saved, data):
    loaded = load_checkpoint(saved[0])
    assert loaded.longtail == data.longtail
    rebuilt = loaded.load_data()
    assert rebuilt.longtail == data.longtail
    for one, other in ((rebuilt.train, data.train), (rebuilt.test, data.test)):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert (one.mean, one.std) == (other.mean, other.std)


def test_other_images_than_it_was_trained_on_are_refused(saved):
    path, model = saved
    manifest = content(path)["manifest"]
    manifest["data_sha256"] = "0" * 64
    save_checkpoint(path, model, manifest)
    with pytest.raises(UserError, match="was trained on other images of digits-lt"):
        load_checkpoint(path).load_data()


def test_saving_replaces_a_file_as_a_whole_or_not_at_all(saved, monkeypatch):
    path, model = saved
    before = path.read_bytes()

    def half(content, file):
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(UserError, match="cannot write .*last.pt: no space left"):
        save_checkpoint(path, model, {})
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_told(saved, share):
    path, _ = saved
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    refused(path, "cannot read")


def test_a_missing_file_is_told(tmp_path):
    refused(tmp_path / "none.pt", "no checkpoint at")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no checkpoint at")


class Payload:
    """Unpickling creates a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), "w")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_with_a_payload_is_refused_and_not_executed(tmp_path, protocol):
    path, target = tmp_path / "evil.pt", tmp_path / "executed"
    path.write_bytes(pickle.dumps({"format": FORMAT, "state": Payload(target)}, protocol))
    refused(path, "cannot read")
    assert not target.exists()
    pickle.loads(path.read_bytes()).get("state").close()
    assert target.exists(), "the payload works"


def test_a_payload_inside_our_own_format_is_refused_and_not_executed(saved, tmp_path):
    path, target = saved[0], tmp_path / "executed"
    torch.save({**content(path), "manifest": Payload(target)}, path)
    assert zipfile.is_zipfile(path)
    refused(path, "cannot read")
    assert not target.exists()


@pytest.mark.parametrize(
    "foreign",
    [
        {"state_dict": {}, "epoch": 200, "arch": "resnet32"},
        {"format": "other", "version": 1},
        {},
        [1, 2],
        torch.zeros(3),
        "text",
    ],
    ids=["another repository", "another format", "empty", "list", "tensor", "string"],
)
def test_foreign_content_is_refused(tmp_path, foreign):
    torch.save(foreign, tmp_path / "foreign.pt")
    refused(tmp_path / "foreign.pt", "is not a checkpoint of 'sharpness train'")


def test_of_a_whole_model_the_weights_are_read(tmp_path):
    torch.save(model := build_model("resnet8", 3, 1), tmp_path / "module.pt")
    read = load_checkpoint(tmp_path / "module.pt")
    assert all(map(torch.equal, read.model.state_dict().values(), model.state_dict().values()))
    assert "nothing of it was run" in " ".join(read.manifest.notes)


def test_a_newer_version_asks_for_an_upgrade(saved):
    path, _ = saved
    torch.save({**content(path), "version": VERSION + 1, "manifest": {"unheard": "of"}}, path)
    refused(path, f"format version {VERSION + 1}, this release reads {VERSION}: upgrade")


NETWORK = {"architecture": "resnet8", "num_classes": 10, "in_channels": 1, "head": "linear", "scale": None}
DAMAGE = {
    "no version": ({"version": None}, "format version is None"),
    "version of text": ({"version": "x"}, "format version is 'x'"),
    "no manifest": ({"manifest": None}, "lacks its manifest"),
    "no model": ({"manifest": {}}, "describes no model"),
    "model of text": ({"manifest": {"model": "resnet8"}}, "describes no model"),
    "another field": ({"manifest": {"model": NETWORK | {"depth": 3}}}, "describes no model"),
    "unknown architecture": ({"manifest": {"model": NETWORK | {"architecture": "../x"}}}, "names the model '../x'"),
    "unknown head": ({"manifest": {"model": NETWORK | {"head": "round"}}}, "unknown head"),
    "negative classes": ({"manifest": {"model": NETWORK | {"num_classes": -1}}}, "describes the model as"),
    "classes of text": ({"manifest": {"model": NETWORK | {"num_classes": "10"}}}, "describes the model as"),
    "scale below zero": ({"manifest": {"model": NETWORK | {"head": "cosine", "scale": -1.0}}}, "scale"),
    "scale of a linear head": ({"manifest": {"model": NETWORK | {"scale": 30.0}}}, "scale=30.0"),
    "a billion classes": ({"manifest": {"model": NETWORK | {"num_classes": 10**9}}}, "describes a network of .* bytes"),
    "more classes than numbers": ({"manifest": {"model": NETWORK | {"num_classes": 10**30}}}, "make no network"),
    "other classes": (
        {"manifest": {"model": NETWORK | {"num_classes": 9}}},
        "of another shape .head.weight is 10x64, the model.s 9x64",
    ),
    "no weights": ({"state_dict": {}}, "lacks its manifest or its weights"),
    "weights of text": ({"state_dict": {"weight": "text"}}, "lacks its manifest or its weights"),
    "other weights": ({"state_dict": {"weight": torch.ones(2)}}, "missing .*; 1 unexpected .weight"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_damaged_is_told_in_one_line(saved, damage):
    path, _ = saved
    changed, message = DAMAGE[damage]
    torch.save({**content(path), **changed}, path)
    refused(path, message)


def test_a_manifest_that_unfolds_without_end_is_told(saved):
    path, _ = saved
    unfolding = []
    for _ in range(60):
        unfolding = [unfolding, unfolding]
    torch.save({**content(path), "manifest": {"model": unfolding}}, path)
    refused(path, "unfolds into far more")


def test_the_number_of_classes_is_checked(saved):
    path, _ = saved
    assert load_checkpoint(path, num_classes=10).manifest.model.num_classes == 10
    with pytest.raises(UserError, match="num_classes=7 was given, but .*last.pt tells 10 apart"):
        load_checkpoint(path, num_classes=7)


def test_reading_leaves_the_global_generator_alone(saved):
    before = torch.get_rng_state()
    load_checkpoint(saved[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_reading_keeps_plain_values(tmp_path):
    plain = {"a": [1, 2.5, None, True], "b": ("x", {"c": torch.arange(3)})}
    torch.save(plain, tmp_path / "plain.pt")
    read = read_safely(tmp_path / "plain.pt")
    assert torch.equal(read["b"][1].pop("c"), torch.arange(3))
    assert read == {"a": [1, 2.5, None, True], "b": ("x", {})}
