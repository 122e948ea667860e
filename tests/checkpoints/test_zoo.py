"""The models that come with the package: whole, described, and as good as their cards say."""

import json
import os
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save

from sharpness import checkpoint_objective, load_checkpoint
from sharpness.checkpoints import find_checkpoints, save_checkpoint
from sharpness.checkpoints.zoo import FOLDER, zoo
from sharpness.cli import main
from sharpness.data import ImageSet, cifar
from sharpness.errors import UserError
from sharpness.methods import METHODS

MODELS = ["cc-sam", "ce", "gcl", "ldam-drw", "m2m", "mislas"]


def test_the_zoo_is_small_and_complete():
    assert list(zoo()) == MODELS
    assert find_checkpoints("zoo:") == [FOLDER / f"{name}.safetensors" for name in MODELS]
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 12 * 2**20


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_the_zoo_is_described(name):
    checkpoint = load_checkpoint(f"zoo:{name}")
    manifest = checkpoint.manifest
    assert manifest.method == name in METHODS
    assert manifest.training["epochs"][0] == 200
    assert checkpoint.longtail.imbalance == 100
    assert manifest.model.architecture == "resnet32"
    assert all(bool(t.isfinite().all()) for t in checkpoint.model.state_dict().values())
    with torch.no_grad():
        assert checkpoint.model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.skipif(not os.environ.get("SHARPNESS_DATA"), reason="SHARPNESS_DATA names no folder of CIFAR files")
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("per_class", "within"), [(50, 0.09), pytest.param(None, 1e-3, marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_its_accuracy_is_that_of_its_card(name, per_class, within):
    """To 0.1 points on the test set, which another order of summation may move and which is the same for every long
    tail; on some of its images to four standard errors."""
    checkpoint = load_checkpoint(f"zoo:{name}")
    objective = checkpoint_objective(checkpoint, split="test", limit_per_class=per_class)
    assert objective.evaluate().accuracy == pytest.approx(checkpoint.manifest.accuracy["accuracy"], abs=within)


@pytest.mark.skipif(not os.environ.get("SHARPNESS_DATA"), reason="SHARPNESS_DATA names no folder of CIFAR files")
def test_its_training_images_are_found_in_any_folder_that_holds_them(monkeypatch):
    """As in the official archive, in another order, which the recipe cuts otherwise."""
    read = cifar._read_split

    def with_pool_of(choose):
        def changed(paths, *given):
            images = read(paths, *given)
            return images if paths[0].name == "test_batch" else images.subset(choose(len(images)))

        monkeypatch.setattr(cifar, "_read_split", changed)

    checkpoint = load_checkpoint("zoo:ce")
    with_pool_of(lambda n: torch.randperm(n, generator=torch.Generator().manual_seed(0)))
    data = checkpoint.load_data()
    assert data.train.sha256() == checkpoint.manifest.data_sha256 and data.longtail == checkpoint.longtail
    named = checkpoint_objective(checkpoint, data="cifar10-lt", limit_per_class=1)
    assert named.samples.content.digests.tolist() == data.train.limit_per_class(1).content.digests.tolist()
    with_pool_of(lambda n: range(20_000))
    with pytest.raises(UserError):
        checkpoint.load_data()


def test_images_are_found_by_their_pixels():
    images = ImageSet(torch.arange(48, dtype=torch.uint8).view(4, 3, 2, 2), torch.arange(4), (0.0,) * 3, (1.0,) * 3)
    found = images.by_digest(images.content.digests[[2, 0]])
    assert found.labels.tolist() == [2, 0]
    assert images.by_digest(images.content.digests[[2]] + 1) is None


def test_a_model_of_the_zoo_is_inspected_like_any_other(capsys):
    assert main(["inspect", "zoo:ldam-drw"]) == 0
    out = capsys.readouterr().out
    assert "LDAM-DRW" in out or "ldam-drw" in out
    assert "resnet32" in out


@pytest.mark.parametrize("path", ["zoo:ldam", "zoo:../ce", "zoo:ce.safetensors"])
def test_what_is_not_in_the_zoo_is_said(path):
    with pytest.raises(
        UserError, match="unknown model of the zoo .*choose one of cc-sam, ce, gcl, ldam-drw, m2m, mislas"
    ):
        load_checkpoint(path)


def test_a_file_of_that_name_comes_first(tmp_path, monkeypatch):
    checkpoint = load_checkpoint("zoo:ce")
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tmp_path / "zoo:ce", checkpoint.model, replace(checkpoint.manifest, label="mine"))
    assert load_checkpoint("zoo:ce").label == "mine"


def test_a_safetensors_file_of_ours_is_believed_only_whole(tmp_path):
    checkpoint = load_checkpoint("zoo:ce")
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, checkpoint.model, checkpoint.manifest)
    again = load_checkpoint(path)
    assert again.manifest == checkpoint.manifest
    for name, tensor in checkpoint.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor)
    content = path.read_bytes()
    tensors = load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    tensors["head.bias"] = tensors["head.bias"] + 1e-3
    path.write_bytes(save(tensors, header))
    with pytest.raises(UserError, match="altered"):
        load_checkpoint(path)
    path.write_bytes(save(load(content), {"sharpness-checkpoint": "[" * 100_000}))
    assert load_checkpoint(path).is_foreign
