"""The manifest of a checkpoint: typed fields, plain values on disk, and a mapping for one more version."""

import json
from dataclasses import replace

import pytest
import torch

from sharpness import load_checkpoint
from sharpness.checkpoints import Manifest, Network, save_checkpoint
from sharpness.data import load_data
from sharpness.data.standardization import Standardization
from sharpness.models import build_model

PICTURES = {"mean": [0.5], "std": [0.25]}


@pytest.fixture(scope="module")
def tail():
    return load_data("digits-lt").longtail


@pytest.fixture
def manifest(tail):
    return Manifest(
        method="ce", options={}, longtail=tail, normalization=Standardization((0.5,), (0.25,)), epoch=3,
        accuracy={"accuracy": 0.5}, notes=["a note"], training={"seed": 7, "epochs": [3]}, extra={"later": [1, 2]},
    )  # fmt: skip


def saved(path, manifest):
    save_checkpoint(path, build_model("resnet8", 10, 1), manifest)
    return load_checkpoint(path).manifest


@pytest.mark.parametrize("name", ["file.pt", "file.safetensors"])
def test_it_is_read_back_as_it_was_written(tmp_path, manifest, name):
    assert saved(tmp_path / name, manifest) == replace(manifest, model=Network("resnet8", 10, 1, "linear"))


def test_its_plain_values_are_json_and_leave_out_what_is_not_known(manifest, tail):
    plain = manifest.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["normalization"] == PICTURES and plain["longtail"] == tail.to_dict() and plain["later"] == [1, 2]
    assert not {"label", "family", "stage", "extra", "model"} & plain.keys()
    assert Manifest().to_dict() == {}


def test_plain_values_may_be_saved_as_well(tmp_path, manifest):
    assert saved(tmp_path / "a.pt", manifest.to_dict()) == saved(tmp_path / "b.pt", manifest)


def test_a_manifest_of_an_earlier_version_has_fewer_fields(tmp_path):
    found = saved(tmp_path / "old.pt", {"method": "ce"})
    assert (found.method, found.seed, found.longtail, found.accuracy, found.notes) == ("ce", None, None, {}, ())


def test_it_works_as_a_mapping_for_one_more_version(manifest):
    with pytest.warns(FutureWarning, match=r"manifest\['epoch'\] is now manifest.epoch"):
        assert manifest["epoch"] == 3
    with pytest.warns(FutureWarning, match=r"manifest\['later'\] is now manifest.extra\['later'\]"):
        assert manifest["later"] == [1, 2]
    with pytest.warns(FutureWarning):
        assert manifest.get("normalization") == PICTURES and manifest.get("label") is None
    with pytest.warns(FutureWarning):
        assert dict(manifest) == manifest.to_dict() and "label" not in manifest


def test_what_a_foreign_file_leaves_open_was_none(tmp_path):
    network = build_model("resnet8", 3, 1)
    torch.save(network.state_dict(), tmp_path / "file.pt")
    found = load_checkpoint(tmp_path / "file.pt").manifest
    with pytest.warns(FutureWarning):
        assert found["stage"] is None and found["model"]["num_classes"] == 3 and "longtail" not in found


@pytest.mark.parametrize(
    ("known", "cut"),
    [
        ({}, {}),
        ({"subset": {"list": "the published split list"}, "imbalance": 100.0}, {}),
        ({"subset": {"profile": "exp", "subset": "first_n"}}, {"profile": "exp", "subset": "first_n"}),
        (
            {"subset": {"profile": "exp", "subset": "first_n"}, "profile": "step", "imbalance": 50.0},
            {"profile": "step", "subset": "first_n", "imbalance": 50.0},
        ),
    ],
)
def test_how_a_training_set_was_cut(known, cut):
    assert Manifest(family="LDAM", **known).cut == cut
